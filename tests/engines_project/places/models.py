from typing import Any

from django.contrib.gis.db import models


class Place(models.Model):
    name = models.TextField()
    point: Any = models.PointField(srid=4326)
