"""As a project has the probes."""

from django.urls import include, path

urlpatterns = [path("health/", include("django_resilient_pg.urls"))]
