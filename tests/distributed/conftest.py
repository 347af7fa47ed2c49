"""How tests start jobs of several tasks."""

import pytest


@pytest.fixture
def launch(program, digits_dir, tmp_path):
    """Starts a job on this machine."""

    def start(*args, workers=2, name="job", flags=(), batch_size=0, digits=True, **options):
        more = [*flags, *(f"--{key}={value}" for key, value in options.items())]
        settings = [f"--logdir={tmp_path / name}", "--eval_every=0", *([f"--data_dir={digits_dir}"] if digits else [])]
        settings += [f"--batch_size={batch_size}"] if batch_size else []
        return program("launch", "local", f"--workers={workers}", *more, "--", *settings, *args)

    return start


@pytest.fixture
def run_job(launch, tmp_path):
    """Runs a job to its end; returns its run directory."""

    def run(*args, name="job", **options):
        process = launch(*args, name=name, **options)
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, out + err
        return tmp_path / name

    return run


@pytest.fixture
def by_hand(program, digits_dir, tmp_path):
    """Starts two workers without a launcher."""

    def start(*args):
        from launch.plan import free_ports

        hosts = ",".join(f"127.0.0.1:{port}" for port in free_ports(2))
        where = (f"--worker_hosts={hosts}", f"--logdir={tmp_path / 'run'}", f"--data_dir={digits_dir}")
        return [program("trainer", *where, "--job_name=worker", f"--task_index={index}", *args) for index in (0, 1)]

    return start
