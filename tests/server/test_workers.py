"""Workers: no request begins or ends, and the session is ended in the middle of the work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import django
import pytest
from celery import Celery
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.db import Error, OperationalError, connections
from django.test import override_settings

from testproject import guard
from testproject.environment import variables
from testproject.ledger import Found
from testproject.postgres import Server
from testproject.shop.models import Product
from testproject.shop.operations import PRODUCTS, stock_up
from testproject.witness import count
from tests.engines import STOCK, Connections
from tests.server import jobs

pytestmark = pytest.mark.once_per_driver

KINDS: dict[str, Callable[[str, str], Any]] = {}


@pytest.fixture
def shop(project: str, server: Server) -> str:
    stock_up(project)
    jobs.requests.clear()
    return project


@pytest.fixture
def stock_alias(shop: str, make_connection: Connections) -> str:
    kept: dict[str, Any] = {"CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True}
    return make_connection(STOCK, database="project", **kept).alias


def rows(server: Server, prefix: str) -> Found:
    return count(partial(server.execute, database="project"), prefix)


def kind(run: Callable[[str, str], Any]) -> Callable[[str, str], Any]:
    """Register a way to run the job; it takes token and alias, and returns the job's result."""
    KINDS[run.__name__] = run
    return run


@kind
def plain_call(token: str, using: str) -> Any:
    return jobs.job(token, using)


class Command(BaseCommand):
    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("token")
        parser.add_argument("using")

    def handle(self, *args: Any, **options: Any) -> str:
        self.result = jobs.job(options["token"], options["using"])
        return ""


@kind
def management_command(token: str, using: str) -> Any:
    command = Command()
    call_command(command, token, using)
    return command.result


def _job_of_a_pool(token: str, using: str) -> Any:
    """Threads of a pool outlive their jobs, and nothing closes their connections."""
    try:
        return jobs.job(token, using)
    finally:
        connections.close_all()


@kind
def thread_pool(token: str, using: str) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_job_of_a_pool, token, using).result()


if django.VERSION >= (6,):
    from django.tasks import TaskResultStatus, task
    from django.tasks.backends.immediate import ImmediateBackend

    class ThreadBackend(ImmediateBackend):
        """Django has none that runs tasks elsewhere; this is the least there is to one."""

        def _execute_task(self, task_result: Any) -> None:
            def run() -> None:
                try:
                    ImmediateBackend._execute_task(self, task_result)  # type: ignore[attr-defined]
                finally:
                    connections.close_all()

            with ThreadPoolExecutor(1) as pool:
                pool.submit(run).result()

    background_job = task(jobs.job.run)

    def _background(backend: str, token: str, using: str) -> Any:
        with override_settings(TASKS={"default": {"BACKEND": backend}}):
            result = background_job.enqueue(token, using)
        if result.status is TaskResultStatus.FAILED:
            (error,) = result.errors
            raise error.exception_class(error.traceback)
        return result.return_value

    @kind
    def background_task(token: str, using: str) -> Any:
        return _background("django.tasks.backends.immediate.ImmediateBackend", token, using)

    @kind
    def background_task_in_a_thread(token: str, using: str) -> Any:
        return _background(f"{__name__}.ThreadBackend", token, using)


@pytest.mark.parametrize("run", KINDS.values(), ids=KINDS)
def test_a_job_survives_three_losses(
    run: Callable[[str, str], Any], shop: str, server: Server
) -> None:
    assert run("once", shop) == {"products": PRODUCTS, "runs": 2, "hooks": 1, "requests": 0}
    one = {"once": 1}
    assert rows(server, "once") == Found(one, one, one)


@pytest.mark.parametrize("run", KINDS.values(), ids=KINDS)
def test_with_the_stock_engine_it_fails(
    run: Callable[[str, str], Any], stock_alias: str, server: Server
) -> None:
    with pytest.raises(OperationalError):
        run("never", stock_alias)
    assert rows(server, "never") == Found({}, {}, {})


@pytest.mark.parametrize("engine", ["own", "stock"])
def test_after_a_loss_the_next_job_works_or_with_the_stock_engine_never_again(
    engine: str, shop: str, stock_alias: str
) -> None:
    """No request ends here, so nobody closes the dead connection."""
    using = shop if engine == "own" else stock_alias
    assert Product.objects.using(using).count() == PRODUCTS
    jobs.end_session(using)
    for _ in range(3):
        if engine == "own":
            assert Product.objects.using(using).count() == PRODUCTS
        else:
            with pytest.raises(Error):
                Product.objects.using(using).count()


def test_eight_jobs_in_four_threads_leave_no_connection_behind(shop: str, server: Server) -> None:
    connections[shop].close()
    before = set(server.backends("project"))
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(_job_of_a_pool, [f"pool-{n}" for n in range(8)], [shop] * 8))
    assert [each["runs"] for each in done] == [2] * 8
    once = {f"pool-{n}": 1 for n in range(8)}
    assert rows(server, "pool-") == Found(once, once, once)
    assert guard.wait_gone(list(set(server.backends("project")) - before), timeout=5.0)


@contextmanager
def celery_worker(entry: dict[str, Any], folder: Path) -> Iterator[Celery]:
    """Run a Celery worker with a child process; the value is an application that sends it tasks."""
    environment = {
        **os.environ,
        **variables(entry),
        "CELERY_FOLDER": str(folder),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    arguments = "-A tests.server.jobs worker -P prefork -c 1 --without-gossip --without-mingle"
    with (folder / "log").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", *arguments.split()],
            env=environment,
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    application = Celery("sender", set_as_current=False)
    application.conf.update(jobs.broker(str(folder)))
    try:
        yield application
    finally:
        application.close()
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(jobs.PATIENCE)
        finally:
            process.kill()


@pytest.mark.slow
def test_a_celery_task_survives_three_losses(shop: str, server: Server, tmp_path: Path) -> None:
    entry = server.database("project", CONN_MAX_AGE=60)
    with celery_worker(entry, tmp_path) as application:
        sent = [application.send_task("job", [f"celery-{n}"]) for n in range(2)]
        done = [each.get(timeout=jobs.PATIENCE) for each in sent]
    assert done == [{"products": PRODUCTS, "runs": 2, "hooks": 1, "requests": 0}] * 2
    once = {"celery-0": 1, "celery-1": 1}
    assert rows(server, "celery-") == Found(once, once, once)


@pytest.mark.slow
def test_with_the_stock_engine_a_celery_task_fails(
    shop: str, server: Server, tmp_path: Path
) -> None:
    entry = server.database("project", engine=STOCK, CONN_MAX_AGE=60)
    with (
        celery_worker(entry, tmp_path) as application,
        pytest.raises(OperationalError),
    ):
        application.send_task("job", ["never"]).get(timeout=jobs.PATIENCE)
    assert rows(server, "never") == Found({}, {}, {})
