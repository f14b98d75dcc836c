"""What a test runner does with a database. Run by tests/server/test_runner.py, not collected."""

import os

from django.db import OperationalError, connection, transaction
from django.test import LiveServerTestCase, SimpleTestCase, TestCase, TransactionTestCase
from stock_room.models import Item


def names() -> list[str]:
    return sorted(item.name for item in Item.objects.all())


class InATransaction(TestCase):
    @classmethod
    def setUpTestData(cls) -> None:
        Item.objects.create(name="of the class")

    def test_a_row_is_rolled_back(self) -> None:
        Item.objects.create(name="of the test")
        self.assertEqual(names(), ["from a migration", "of the class", "of the test"])

    def test_b_row_is_gone(self) -> None:
        self.assertEqual(names(), ["from a migration", "of the class"])

    def test_c_queries_are_counted(self) -> None:
        with self.assertNumQueries(2), transaction.atomic(savepoint=False):
            Item.objects.create(name="counted")
            names()

    def test_d_hooks_are_captured(self) -> None:
        with self.captureOnCommitCallbacks(execute=True) as hooks:
            transaction.on_commit(lambda: None)
        self.assertEqual(len(hooks), 1)


class Committed(TransactionTestCase):
    serialized_rollback = True

    def test_a_row_is_committed(self) -> None:
        Item.objects.create(name="committed")
        self.assertEqual(names(), ["committed", "from a migration"])

    def test_b_tables_are_as_the_migrations_left_them(self) -> None:
        self.assertEqual(names(), ["from a migration"])


class Flushed(TransactionTestCase):
    available_apps = ("stock_room",)

    def test_row_is_committed(self) -> None:
        with transaction.atomic():
            Item.objects.create(name="committed")
        self.assertIn("committed", names())


class OverHTTP(LiveServerTestCase):
    def test_thread_shares_the_database(self) -> None:
        Item.objects.create(name="shared")
        self.assertIn("shared", names())
        self.assertTrue(self.live_server_url.startswith("http"))


class NoDatabase(SimpleTestCase):
    def test_queries_are_refused(self) -> None:
        with self.assertRaisesMessage(Exception, "Database queries to 'default' are not allowed"):
            names()

    def test_connecting_is_refused(self) -> None:
        with self.assertRaisesMessage(Exception, "Database connections to 'default' are not"):
            connection.connect()


if os.environ.get("RUNNER_LOSES"):

    class ALoss(TestCase):
        @classmethod
        def setUpTestData(cls) -> None:
            Item.objects.create(name="of the class")

        def test_a_loss_is_raised_plainly(self) -> None:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_backend_pid()")
                pid = cursor.fetchone()[0]
            other = connection.copy()
            with other.cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
            other.close()
            with self.assertRaises(OperationalError) as caught:
                names()
            print("NOTES:", *getattr(caught.exception, "__notes__", []), flush=True)

        def test_b_rest_of_the_class_does_not_go_on_without_its_data(self) -> None:
            with self.assertRaises(OperationalError) as caught:
                names()
            print("NOTES:", *getattr(caught.exception, "__notes__", []), flush=True)

    class BAfterwards(TestCase):
        def test_next_class_has_a_connection(self) -> None:
            self.assertEqual(names(), ["from a migration"])
