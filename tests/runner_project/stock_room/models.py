"""One table."""

from django.db import models


class Item(models.Model):
    """Something in the stock room."""

    name = models.CharField(max_length=50, unique=True)

    def __str__(self) -> str:
        return self.name
