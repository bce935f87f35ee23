"""Runs as Ray Jobs: a cluster does them by itself, whether or not the machine that asked is still there."""

from __future__ import annotations

import asyncio
import logging
import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path

import kcframe
from kcframe.run.backends.ray.cluster import ClusterError, first_line, refusals_in_words, refuse_plugin_files

RECIPE_FILE = "recipe.yaml"
PACKAGING = "ray._private.runtime_env.packaging"


class Jobs:
    """A cluster's jobs. address: of its dashboard, e.g. http://head:8265."""

    def __init__(self, address: str):
        self.address = address
        try:
            from ray.job_submission import JobSubmissionClient
        except ImportError as error:
            raise ClusterError(
                f"submitting needs ray[default]: pip install 'kcframe[cluster]' ({error})"
            ) from None
        with refusals_in_words(address):
            try:
                self._client = JobSubmissionClient(address)
            except (ConnectionError, ValueError) as error:
                raise ClusterError(
                    f"no Ray dashboard answers at {address} ({first_line(error)}): give the head's address "
                    "with its dashboard port, e.g. http://head:8265, and start the head with `ray start "
                    "--head --dashboard-host 0.0.0.0`"
                ) from None
        for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk", PACKAGING):
            logging.getLogger(name).setLevel(logging.WARNING)

    def submit(self, recipe: str, run_dir: str, packages: tuple[str, ...]) -> str:
        """Send a resolved recipe (YAML) and this kcframe, and start it; returns the job's id.

        packages: distributions that the cluster installs for this job, as pip names them.
        """
        refuse_plugin_files()
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / RECIPE_FILE).write_text(recipe)
            environment = {
                "working_dir": folder,
                "py_modules": [str(Path(kcframe.__file__).parent)],
                # After that Ray kills a job that was asked to stop: it should have saved by then.
                "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "120"},
            }
            if packages:
                environment["pip"] = list(packages)
            command = f"python -m kcframe run {RECIPE_FILE} --address auto --run-dir {shlex.quote(run_dir)}"
            return self._client.submit_job(entrypoint=command, runtime_env=environment)

    def follow(self, job: str, say: Callable[[str], None]) -> str:
        """Pass on what a job prints until it ends; returns SUCCEEDED, FAILED or STOPPED."""
        self._known(job)

        async def tail() -> None:
            async for text in self._client.tail_job_logs(job):
                say(text)

        asyncio.run(tail())
        return self.status(job)

    def status(self, job: str) -> str:
        """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
        return str(self._client.get_job_status(self._known(job)).value)

    def why(self, job: str) -> str:
        """What Ray says of a job that failed."""
        return self._client.get_job_info(self._known(job)).message or ""

    def stop(self, job: str) -> None:
        """Ask a job to stop: it saves a checkpoint first."""
        self._client.stop_job(self._known(job))

    def _known(self, job: str) -> str:
        try:
            self._client.get_job_info(job)
        except RuntimeError:
            known = ", ".join(str(each.submission_id) for each in self._client.list_jobs()) or "it has none"
            raise ClusterError(f"{self.address}: no job '{job}'; its jobs: {known}") from None
        return job
