"""The shop's tables.

``token`` is the load's mark: unique per attempted write, but *not* by a constraint. A database that
refused the second row would hide exactly the defect that is looked for: a write executed twice.
"""

from django.db import models

TOKEN_LENGTH = 64


class Customer(models.Model):
    """Somebody who orders."""

    name = models.CharField(max_length=100)
    email = models.EmailField(unique=True)

    def __str__(self) -> str:
        return self.name


class Product(models.Model):
    """Something to be ordered."""

    sku = models.CharField(max_length=20, unique=True)
    name = models.CharField(max_length=100)
    price = models.DecimalField(max_digits=9, decimal_places=2)

    def __str__(self) -> str:
        return self.sku


class Order(models.Model):
    """What one customer orders at once."""

    customer = models.ForeignKey(Customer, on_delete=models.CASCADE, related_name="orders")
    placed = models.DateTimeField(auto_now_add=True)
    token = models.CharField(max_length=TOKEN_LENGTH, blank=True)

    def __str__(self) -> str:
        return f"order {self.pk}"


class OrderLine(models.Model):
    """A product in an order; written in the same transaction as its order, with the same token."""

    order = models.ForeignKey(Order, on_delete=models.CASCADE, related_name="lines")
    product = models.ForeignKey(Product, on_delete=models.PROTECT, related_name="lines")
    quantity = models.PositiveIntegerField(default=1)
    token = models.CharField(max_length=TOKEN_LENGTH, blank=True)

    def __str__(self) -> str:
        return f"{self.quantity} of product {self.product_id}"


class Movement(models.Model):
    """Goods put into or taken out of the stock; written on its own, in autocommit."""

    product = models.ForeignKey(Product, on_delete=models.CASCADE, related_name="movements")
    quantity = models.IntegerField()
    token = models.CharField(max_length=TOKEN_LENGTH, blank=True)

    def __str__(self) -> str:
        return f"{self.quantity:+d} of product {self.product_id}"
