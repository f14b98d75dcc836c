"""Addresses of the shop."""

from django.urls import path

from testproject.shop import views

urlpatterns = [
    path("products/", views.products, name="products"),
    path("products/count/", views.product_count, name="product-count"),
    path("report/", views.report, name="report"),
    path("orders/<int:pk>/", views.order, name="order"),
    path("orders/new/", views.place_order, name="place-order"),
    path("movements/new/", views.record_movement, name="record-movement"),
    path("movements/export/", views.export_movements, name="export-movements"),
]
