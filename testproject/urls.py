"""Addresses of the test project."""

from django.urls import include, path

urlpatterns = [path("", include("testproject.shop.urls"))]
