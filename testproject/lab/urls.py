"""Addresses of the lab's page."""

from django.urls import path
from django.views.static import serve

from testproject.lab import views
from testproject.lab.settings import STATIC

urlpatterns = [
    path("", views.page, name="page"),
    path("stream/", views.stream, name="stream"),
    path("faults/<slug:name>/", views.break_it, name="break-it"),
    path("static/<path:path>", serve, {"document_root": STATIC}, name="static"),
]
