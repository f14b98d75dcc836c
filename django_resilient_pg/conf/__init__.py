"""What a user may set, declared and checked. Pure: no Django and no driver."""
