"""Health probes and the status page: ``path("health/", include("django_resilient_pg.urls"))``.

``live/`` and ``ready/`` are for probes, ``status/`` is for people and monitoring systems.
"""

from __future__ import annotations

from django.urls import path

from .health import views

app_name = "resilient_pg"
urlpatterns = [
    path("live/", views.live, name="live"),
    path("ready/", views.ready, name="ready"),
    path("status/", views.status, name="status"),
    path("status/style.css", views.style, name="style"),
]
