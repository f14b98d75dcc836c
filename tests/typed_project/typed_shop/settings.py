"""Settings of a small project with this engine."""

SECRET_KEY = "only for type checkers"
INSTALLED_APPS = ["django_resilient_pg"]
DATABASES = {"default": {"ENGINE": "django_resilient_pg", "NAME": "shop"}}
