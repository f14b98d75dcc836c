"""The project of the Compose example: settings, two views and a probe."""
