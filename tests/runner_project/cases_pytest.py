"""What pytest-django does with a database. Run by tests/server/test_runner.py, not collected."""

import pytest
from cases import names
from stock_room.models import Item


@pytest.mark.django_db
@pytest.mark.parametrize("number", [1, 2])
def test_in_a_transaction(number: int) -> None:
    Item.objects.create(name="the same name twice")
    assert names() == ["from a migration", "the same name twice"]


@pytest.mark.django_db(transaction=True, serialized_rollback=True)
@pytest.mark.parametrize("number", [1, 2])
def test_committed(number: int) -> None:
    Item.objects.create(name="the same name twice")
    assert names() == ["from a migration", "the same name twice"]


def test_no_database() -> None:
    with pytest.raises(RuntimeError, match="Database access not allowed"):
        names()


@pytest.mark.django_db
def test_queries_are_counted(django_assert_num_queries: object) -> None:
    with django_assert_num_queries(1):  # type: ignore[operator]
        names()
