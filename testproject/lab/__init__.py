"""The outage lab: two applications under the same load, and buttons that break their database."""
