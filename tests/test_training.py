"""The training engine: resumption, devices, hosts, released parameters, wrong input."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from advjax import attacks, data, evaluate, losses, norms, objectives, train
from advjax.attacks import ensembles, survivors, targets
from advjax.attacks.components import Component
from advjax.types import Batch
from experiments import arrays, checks, devices, run, workdir
from experiments.files import FileError
from experiments.training import (
    autoattack,
    classifier,
    engine,
    evaluation,
    parameters,
    recipe,
    testing,
    trainer,
)
from experiments.training.checkpoints import Checkpoints
from experiments.training.parameters import Released
from experiments.training.parts import Watch
from experiments.workdir import Workdir

ROOT = Path(__file__).parents[1]
CONFIG = f"--config={ROOT}/experiments/training/configs/digits.py"
# Of full batches only, since another size compiles another program.
SMALL = [
    f"{CONFIG}:smoke",
    *("--config.num_seeds=1", "--config.eps=(0.1,)", "--config.keep_remainder=False"),
]
CNN = ["--config.model=cnn3", "--config.dispatch=loop", "--config.num_train=160"]


def _run(arguments, path):
    assert run.main([*arguments, f"--workdir={path}"]) == 0
    return _results(path)


def _results(path):
    """Curves and epochs, without the speed."""
    results = json.loads((path / "results.json").read_text())["results"]
    return arrays.restored(results).drop_vars("images_per_second")


def _same_parameters(a, b):
    for name in ("best", "last"):
        one, two = (load_file(path / f"{name}.safetensors") for path in (a, b))
        assert set(one) == set(two)
        for key in one:
            np.testing.assert_array_equal(one[key], two[key], err_msg=key)


def _start(arguments, path, **environment):
    command = [sys.executable, "-m", "experiments.run", *arguments]
    with path.with_suffix(".log").open("a") as log:
        return subprocess.Popen(
            [*command, f"--workdir={path}"],
            cwd=ROOT,
            env=os.environ | environment,
            stdout=log,
            stderr=log,
        )


def _finished(process, path):
    assert process.wait(300) == 0, path.with_suffix(".log").read_text()


@pytest.mark.slow
def test_a_run_killed_at_any_moment_resumes_to_the_same_bits(tmp_path):
    arguments = [*SMALL, "--config.num_epochs=10", "--config.checkpoint_steps=2"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    _finished(_start(arguments, whole), whole)
    generator, reached = np.random.default_rng(0), []
    for _ in range(1):
        process = _start(arguments, parts)
        while (step := _newest(parts)) <= max(reached, default=0):
            assert process.poll() is None, parts.with_suffix(".log").read_text()
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "finished before it was killed"
        reached.append(step)
    _finished(_start(arguments, parts), parts)
    assert _results(whole).identical(_results(parts))
    _same_parameters(whole, parts)


def _newest(path):
    """The step of the newest complete checkpoint."""
    names = [entry.name for entry in path.glob("checkpoints/*")]
    return max((int(name) for name in names if name.isdigit()), default=0)


def test_dispatch_and_interruption_change_nothing(tmp_path, monkeypatch):
    arguments = [*SMALL, "--config.num_train=512", "--config.checkpoint_steps=2"]
    whole = _run(arguments, tmp_path / "whole")
    saved = Checkpoints.save

    def interrupting(self, step, tree):
        saved(self, step, tree)
        if step == 12:  # six steps, in the midst of the second epoch
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", interrupting)
        with pytest.raises(KeyboardInterrupt):
            run.main([*arguments, f"--workdir={tmp_path}/parts"])
    # What a kill in the midst of writing leaves.
    (tmp_path / "parts/checkpoints/16.orbax-checkpoint-tmp/default").mkdir(parents=True)
    assert _run(arguments, tmp_path / "parts").identical(whole)
    _same_parameters(tmp_path / "whole", tmp_path / "parts")
    looped = _run([*arguments, "--config.dispatch=loop"], tmp_path / "looped")
    for name, curve in looped.items():
        np.testing.assert_allclose(curve, whole[name], rtol=1e-4, err_msg=name)


PARALLEL = """
import flax.linen as nn, jax, jax.numpy as jnp, numpy as np, optax
from advjax import attacks, losses, models, norms, objectives, train
from advjax.models.layers import BatchNorm
from advjax.types import Batch
from experiments import devices

devices.widen_thread_pool()

class Net(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.relu(BatchNorm()(nn.Conv(4, (3, 3))(x), train=train))
        return nn.Dense(3)(x.reshape(len(x), -1))

rng = np.random.default_rng(0)
data = Batch(np.float32(rng.uniform(size=(64, 6, 6, 1))), rng.integers(0, 3, 64))
model, tx = models.from_linen(Net()), optax.sgd(0.1, 0.9)
attack = attacks.pgd(norms.linf, num_steps=2, rel_step_size=0.5,
                     start=attacks.in_ball(norms.linf), bounds=(0.0, 1.0))
objective = objectives.adversarial(
    model, losses.cross_entropy, attack, attack_mode="train")
indices = np.stack([rng.permutation(64)[:32] for _ in range(20)])
found = []
for number in (1, 8):
    mesh = devices.mesh(number)
    step = devices.data_parallel(train.make_step(objective, tx), mesh)
    whole = devices.whole(mesh)
    create = jax.jit(lambda: train.create(jax.random.key(0), model, tx, data.x[:1]),
                     out_shardings=whole)
    state, metrics = train.looped(step)(
        create(), devices.replicated(data, mesh), indices, 0.1)
    found.append((metrics["loss"], state.batch_stats, state.params))
assert len(jax.tree.leaves(state.params)[0].sharding.device_set) == 8
for one, eight in zip(*map(jax.tree.leaves, found), strict=True):
    np.testing.assert_allclose(one, eight, rtol=2e-4, atol=2e-5)
print(abs(found[0][0] / found[1][0] - 1).max())
"""


def test_eight_devices_share_a_batch_without_a_difference():
    done = subprocess.run(
        [sys.executable, "-c", PARALLEL],
        cwd=ROOT,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-5


SHARED = """
import sys
from experiments import run, devices
devices.use_all_cores()
sys.exit(run.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_cores_that_divide_the_networks_change_nothing(tmp_path):
    """Two radii and two seeds on two devices, and on one."""
    arguments = [f"{CONFIG}:smoke", "--config.eps=(0.0,0.1)", "--config.num_train=300"]
    alone = _run(arguments, tmp_path / "alone")
    done = subprocess.run(
        [sys.executable, "-c", SHARED, *arguments, f"--workdir={tmp_path}/shared"],
        cwd=ROOT,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "shared" / "results.json").read_text())
    assert made["environment"]["device"].startswith("2 ×")
    shared = _results(tmp_path / "shared")
    for name, curve in alone.items():
        np.testing.assert_allclose(curve, shared[name], rtol=1e-4, err_msg=name)


def test_networks_are_divided_only_where_one_program_trains_them(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    monkeypatch.setattr(devices, "mesh", lambda number: SimpleNamespace(size=number))
    options = {"num_runs": 6, "hosts": False, "together": True}
    assert devices.placement(0, {128}, **options) == (SimpleNamespace(size=2), True)
    for changed in (
        {"num_runs": 5},
        {"together": False},
    ):
        found = devices.placement(0, {128}, **options | changed)
        assert found == (SimpleNamespace(size=1), False)
    assert devices.placement(2, {128}, **options) == (SimpleNamespace(size=2), False)


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    arguments = [*SMALL, *CNN, "--config.batch_size=16", "--config.test_batch_size=360"]
    alone = _run(arguments, tmp_path / "alone")
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    processes = [
        _start(
            [*arguments, "--config.hosts=True"],
            tmp_path / "together",
            JAX_COORDINATOR_ADDRESS=f"localhost:{port}",
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(i),
            JAX_NUM_CPU_DEVICES="1",
        )
        for i in range(2)
    ]
    for process in processes:
        _finished(process, tmp_path / "together")
    together = _results(tmp_path / "together")
    assert alone.sizes["epoch"] == 2  # of ten steps each
    for name, curve in alone.items():
        np.testing.assert_allclose(curve, together[name], rtol=1e-4, err_msg=name)


def test_other_processes_wait_for_the_first_to_open_the_directory(
    tmp_path, monkeypatch
):
    """Or they would take its first files for somebody else's."""
    this, config = threading.get_ident(), _recipe(seed=3)
    index = {this: 1}
    monkeypatch.setattr(
        jax, "process_index", lambda: index.get(threading.get_ident(), 0)
    )
    first = threading.Timer(0.3, _opened, (tmp_path / "w", config))
    first.start()
    _opened(tmp_path / "w", config)
    first.join()
    assert (tmp_path / "w" / "metrics.jsonl").exists()
    monkeypatch.setattr(workdir, "_PATIENCE", 0.1)
    with pytest.raises(FileError, match="not opened by the first process"):
        _opened(tmp_path / "other", config)
    assert not (tmp_path / "other").exists()


def _opened(path, config):
    with Workdir(path, config, classifier.STUDY.machine_fields()) as opened:
        opened.begin()


BAD = {
    "unknown network": (
        ["--config.model=preactresnet19"],
        ["config.model = 'preactresnet19'", "preactresnet18"],
    ),
    "a width that the network has not": (
        ["--config.model=cnn3", "--config.width=3"],
        ["config.model = 'cnn3'", "width"],
    ),
    "unknown data set": (
        ["--config.dataset=cifar"],
        ["config.dataset = 'cifar'", "did you mean cifar10?"],
    ),
    "batch larger than the data": (
        ["--config.batch_size=1438"],
        ["config.batch_size = 1438", "at most 1437"],
    ),
    "more devices than there are": (
        ["--config.num_devices=64"],
        ["config.num_devices = 64", f"at most {jax.device_count()}"],
    ),
    "absent classes": (
        ["--config.classes=(0,11)"],
        ["train part of digits: classes = (0, 11)"],
    ),
    "a subset larger than the data": (
        ["--config.num_train=2000"],
        ["train part of digits: size = 2000"],
    ),
    "knots without values": (
        ["--config.schedule_knots=(0.5,)"],
        ["config.schedule_values", "give 2 values"],
    ),
    "unknown schedule": (["--config.schedule=cosin"], ["did you mean cosine?"]),
    "unknown objective": (["--config.objective=madry"], ["config.objective = 'madry'"]),
    "data directory missing": (
        ["--config.dataset=mnist", "--config.data_dir=nowhere"],
        [
            "'mnist' is not prepared in nowhere",
            "does not exist",
            "download_and_prepare",
        ],
    ),
    "one class": (["--config.classes=(3,)"], ["config.classes", "at least 2 values"]),
    "a network for larger images": (
        ["--config.model=lenet5_classic"],
        ["config.model = 'lenet5_classic' cannot train on batches of shape"],
    ),
    "a surrogate of l1": (
        ["--config.xi=0.1", "--config.norm=l1"],
        ["config.xi = 0.1: no surrogate for config.norm = 'l1'", "l2, linf"],
    ),
    "a surrogate of TRADES": (
        ["--config.xi=0.1", "--config.objective=trades"],
        ["no surrogate for config.objective = 'trades'"],
    ),
    "a large momentum": (["--config.momentum=2."], ["config.momentum = 2.0"]),
    "released parameters missing": (
        ["--config.init_from=nowhere.safetensors"],
        ["nowhere.safetensors holds no released parameters"],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_input_is_one_clear_line(name, tmp_path, capsys):
    arguments, wanted = BAD[name]
    path = tmp_path / "w"
    assert run.main([f"{CONFIG}:smoke", *arguments, f"--workdir={path}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("advjax: error: ")
    assert error.count("\n") == 1
    for words in wanted:
        assert words in error


def test_a_batch_must_divide_into_the_devices(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert devices.number(0, {128}, hosts=False) == 8
    assert devices.number(0, {100}, hosts=False) == 5
    assert devices.number(0, {128, 29}, hosts=False) == 1
    assert devices.number(2, {128, 16}, hosts=False) == 2
    with pytest.raises(checks.ConfigError, match="100 examples does not divide into 8"):
        devices.number(0, {100}, hosts=True)
    with pytest.raises(checks.ConfigError, match="all 8 devices take part"):
        devices.number(2, {128}, hosts=True)
    with pytest.raises(checks.ConfigError, match="29 examples does not divide into 2"):
        devices.number(2, {128, 29}, hosts=False)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert devices.number(0, {128}, hosts=False) == 1


FULL_DISK = """
import resource, signal, sys
from experiments import run
from experiments.training.checkpoints import Checkpoints

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
save = Checkpoints.save

def filling(self, step, tree):
    if step == 45:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    save(self, step, tree)

Checkpoints.save = filling
sys.exit(run.main(sys.argv[1:], own_process=True))
"""


def test_a_full_disk_loses_nothing_that_was_saved(tmp_path):
    """Files may not grow beyond 20 kB from the second checkpoint on."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *SMALL, f"--workdir={tmp_path}/w"],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    (error,) = done.stderr.splitlines()
    assert "no checkpoint can be written" in error
    assert "File too large" in error
    assert error.endswith("those before are kept")
    names = {path.name for path in (tmp_path / "w/checkpoints").iterdir()}
    assert {name for name in names if name.isdigit()} == {"23"}
    assert not (tmp_path / "w/results.json").exists()


def test_a_directory_that_cannot_be_written_is_told_before_training(tmp_path, capsys):
    path = tmp_path / "w"
    _opened(path, run.parse(["run", *SMALL])[0])
    (path / "checkpoints").write_text("in the way")
    assert run.main([*SMALL, f"--workdir={path}"]) == 2
    assert "no checkpoint can be written in" in capsys.readouterr().err


TREE = {"a": jnp.ones((1, 3, 4)), "key": jax.random.key(0)}


def test_checkpoints_return_keys_and_refuse_another_network(tmp_path):
    with Checkpoints(tmp_path, "mine") as stored:
        assert stored.restore(TREE) is TREE
        stored.save(7, TREE)
    like = {"a": jnp.zeros((1, 3, 4)), "key": jax.random.key(1)}
    with Checkpoints(tmp_path, "mine") as stored:
        found = stored.restore(like)
        np.testing.assert_array_equal(found["a"], 1)
        assert found["key"] == TREE["key"]
        with pytest.raises(FileError, match=r"a is \(1, 3, 4\) there, \(1, 3, 5\)"):
            stored.restore({**like, "a": jnp.zeros((1, 3, 5))})
        with pytest.raises(FileError, match=r"b is absent there, \(2,\) here"):
            stored.restore({**like, "b": jnp.zeros(2)})


def test_checkpoints_of_another_run_are_not_taken(tmp_path, capsys):
    with Checkpoints(tmp_path, "mine") as stored:
        stored.save(7, TREE)
    with pytest.raises(FileError, match=r"no checkpoint in .* is whole"):
        Checkpoints(tmp_path, "another")
    assert "it belongs to another run" in capsys.readouterr().err


def test_a_checkpoint_that_is_there_is_never_deleted_to_be_written_again(tmp_path):
    """A second signal would come between."""
    with Checkpoints(tmp_path, "mine") as stored:
        stored.save(7, TREE)
        files = [file for file in (tmp_path / "7").rglob("*") if file.is_file()]
        before = [file.stat().st_mtime_ns for file in files]
        stored.save(7, TREE)
        assert [file.stat().st_mtime_ns for file in files] == before


# tensorstore's threads complain of an event loop that is closed after an error.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_checkpoint_is_named_and_the_one_before_serves(tmp_path, capsys):
    with Checkpoints(tmp_path, "mine") as stored:
        stored.save(7, TREE)
        stored.save(9, TREE)
    largest = max((tmp_path / "9").rglob("d/*"), key=lambda file: file.stat().st_size)
    largest.write_bytes(b"")
    with Checkpoints(tmp_path, "mine") as stored:
        assert stored.restore(TREE)["key"] == TREE["key"]
        stored.save(9, TREE)
    said = capsys.readouterr().err
    assert re.search(r"checkpoint \S+/9: 9/default/\S+ has changed\n", said)
    assert "set aside as damaged-*; going on from the one before" in said
    for step in (7, 9):
        next((tmp_path / str(step)).rglob("d/*")).unlink()
    with pytest.raises(FileError, match=r"no checkpoint in .* is whole"):
        Checkpoints(tmp_path, "mine")


def test_released_parameters_are_plain_arrays(tmp_path):
    path = tmp_path / "best.safetensors"
    params = {"Dense_0": {"kernel": jnp.ones((2, 3, 4))}}
    about = {"config": {}, "eps": [0.1, 0.2], "seed": [0, 0], "epoch": [3, 3]}
    parameters.write(path, Released(params, {}, about))
    found = parameters.read(path)
    np.testing.assert_array_equal(found.params["Dense_0"]["kernel"], 1)
    assert found.about == about
    with pytest.raises(FileError, match=r"kernel is \(3, 4\) there, \(3, 5\) here"):
        parameters.check_network(
            found[:2], ({"Dense_0": {"kernel": jnp.ones((3, 5))}}, {})
        )
    content = path.read_bytes()
    for damaged in (content[:-50], b"", b"PK", content[:100] + b"?" + content[101:]):
        path.write_bytes(damaged)
        with pytest.raises(FileError, match="holds no released parameters"):
            parameters.read(path)
    for about in (np.array([object()]), np.array("{}")):
        np.savez(path, about=about)
        with pytest.raises(FileError, match="holds no released parameters"):
            parameters.read(path)


def test_training_goes_on_from_released_parameters(tmp_path):
    arguments = [*SMALL, "--config.num_epochs=1"]
    _run(arguments, tmp_path / "first")
    more = [
        *(
            f"--config.init_from={tmp_path}/first/last.safetensors",
            "--config.objective=standard",
        ),
        *("--config.learning_rate=1e-30", "--config.weight_decay=0."),
    ]
    _run([*arguments, *more], tmp_path / "more")
    for name in ("first", "more"):
        found = parameters.read(tmp_path / name / "last.safetensors")
        leaves = jax.tree.leaves(found.params)
        if name == "first":
            expected = leaves
    for one, other in zip(expected, leaves, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-20)


def test_the_directory_of_a_run_names_its_best_networks(tmp_path):
    _run([*SMALL, "--config.num_epochs=1"], tmp_path / "first")
    best = parameters.read(tmp_path / "first" / "best.safetensors")
    training = recipe.training(_recipe(init_from=str(tmp_path / "first")))
    for one, other in zip(*map(jax.tree.leaves, (best, training.start)), strict=True):
        np.testing.assert_array_equal(one, other)


def _recipe(**fields):
    config = recipe.defaults()
    config.update(fields)
    return config


def test_a_rate_drops_at_the_same_step_under_jit():
    config = _recipe(num_epochs=10, schedule_knots=(0.6, 0.8))
    rate = recipe.schedule(config, 6000)
    for drop in (3599, 4799):
        assert rate(drop) < 0.2 * rate(drop - 1)
        assert jax.jit(rate)(drop) == rate(drop)
        assert jax.jit(rate)(drop - 1) == rate(drop - 1)


def test_rates_follow_the_papers_schedules():
    """Rice et al.: the drop at half of the run already meets the last step before."""
    rate = recipe.schedule(_recipe(), 40)
    np.testing.assert_allclose(
        [rate(i) for i in (0, 18, 19, 28, 29, 39)],
        [0.1, 0.1, 0.01, 0.01, 0.001, 0.001],
        rtol=1e-6,
    )
    triangle = _recipe(
        num_epochs=10,
        schedule="linear",
        schedule_knots=(0.0, 0.4, 1.0),
        schedule_values=(0.0, 1.0, 0.0),
        learning_rate=3e-3,
    )
    rate = recipe.schedule(triangle, 100)
    np.testing.assert_allclose(
        [rate(i) for i in (0, 39, 69, 99)], [7.5e-5, 3e-3, 1.5e-3, 0], atol=1e-9
    )
    rate = recipe.schedule(_recipe(schedule="cosine"), 10)
    np.testing.assert_allclose([rate(4), rate(9)], [0.05, 0], atol=1e-8)
    rate = recipe.schedule(_recipe(schedule="fine_tuning"), 40)
    np.testing.assert_allclose(
        [rate(i) for i in (9, 19, 29, 39)], [0.01, 0.01, 0.001, 1e-4], rtol=1e-5
    )


def test_the_radius_warms_up_over_the_first_epochs():
    seen = []

    def attack(key, loss_fn, x, y, eps):
        jax.debug.callback(lambda eps: seen.append(float(np.max(eps))), eps)
        return attacks.pgd(norms.linf, num_steps=1, rel_step_size=1.0)(
            key, loss_fn, x, y, eps
        )

    training = recipe.training(_small(num_train=100, batch_size=20, num_epochs=3))
    training = training.replaced(
        warm_up_epochs=2.0,
        objective=lambda rate: objectives.adversarial(
            training.model, losses.cross_entropy, attack
        ),
    )
    made = engine.Engine(training)
    now = made.start()
    for epoch in range(3):
        *_, now = made.epoch(now, epoch)
        jax.effects_barrier()
    by_step = sorted({round(eps, 6) for eps in seen})
    np.testing.assert_allclose(
        by_step, [0.1 * share / 10 for share in range(11)], atol=1e-6
    )


@pytest.mark.parametrize("name", recipe.OPTIMISERS)
def test_optimisers_are_those_of_torch(name):
    """In float64: v ← 0.9 v + (g + wd w), w ← w - rate v; Adam on g + wd w."""
    config = _recipe(optimiser=name, weight_decay=0.02)
    rates, w = [0.1, 0.3, 0.05], np.array([1.0, -2.0, 0.5])
    gradients = np.random.default_rng(0).normal(size=(3, 3))
    tx = recipe.optimiser(config, lambda step: jnp.asarray(rates)[step])
    params = jnp.asarray(w, jnp.float32)
    state = tx.init(params)
    v, square = np.zeros(3), np.zeros(3)
    for t, (rate, g) in enumerate(zip(rates, gradients, strict=True), start=1):
        updates, state = tx.update(jnp.asarray(g, jnp.float32), state, params)
        params += updates
        g = g + 0.02 * w
        if name == "sgd":
            v = 0.9 * v + g
            w = w - rate * v
        else:
            v, square = 0.9 * v + 0.1 * g, 0.999 * square + 0.001 * g**2
            scale = np.sqrt(square / (1 - 0.999**t)) + 1e-8
            w = w - rate * v / (1 - 0.9**t) / scale
    np.testing.assert_allclose(params, w, rtol=1e-4)


def test_the_lasso_penalty_leaves_biases_alone():
    config = _recipe(l1_penalty=0.5, objective="standard", eps=(0.0,))
    model = recipe.network(config)
    batch = Batch(jnp.ones((2, 4)), jnp.array([0, 1]))
    params, stats = model.init(jax.random.key(0), batch.x)
    args = (params, stats, jax.random.key(0), batch, 0.0)
    value, aux = recipe.objective(config, model)(*args)
    weights = sum(float(jnp.abs(layer["kernel"]).sum()) for layer in params.values())
    np.testing.assert_allclose(value, aux.losses.mean() + 0.5 * weights, rtol=1e-6)


def test_the_proximal_penalty_is_the_optimisers():
    fields = {"l1_penalty": 0.5, "objective": "standard", "eps": (0.0,)}
    config = _recipe(l1_proximal=True, learning_rate=0.1, momentum=0.0, **fields)
    config.weight_decay = 0.0
    model = recipe.network(config)
    batch = Batch(jnp.ones((2, 4)), jnp.array([0, 1]))
    params, stats = model.init(jax.random.key(0), batch.x)
    args = (params, stats, jax.random.key(0), batch, 0.0)
    value, aux = recipe.objective(config, model)(*args)
    np.testing.assert_allclose(value, aux.losses.mean(), rtol=1e-6)
    tx = recipe.optimiser(config, lambda _: 0.1)
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zero, tx.init(params), params)
    for w, u in zip(jax.tree.leaves(params), jax.tree.leaves(updates), strict=True):
        shrunk = norms.soft_threshold(w, 0.05) if w.ndim > 1 else w
        np.testing.assert_allclose(w + u, shrunk, atol=1e-7)


def test_xi_follows_the_rate():
    fields = {"xi": 1e-3, "norm": "l2", "num_epochs": 100}
    knots = {"schedule_knots": (0.75, 0.9)}
    tied = _recipe(xi_follows_rate=True, **fields, **knots)
    rate = recipe.schedule(tied, 1000)
    found = [recipe.xi(tied, rate(step)) for step in (0, 748, 749, 899, 999)]
    np.testing.assert_allclose(found, [1e-3, 1e-3, 1e-4, 1e-5, 1e-5], rtol=1e-6)
    assert recipe.xi(_recipe(**fields), rate(999)) == np.float32(1e-3)


def test_xi_reaches_the_attack_of_its_step():
    """The loss is the surrogate's at the xi of the step, the attack's share is told."""
    config = _recipe(xi=0.5, norm="l2", eps=(0.5,), num_steps=2, attack_mode="eval")
    model = recipe.network(config)
    x = jax.random.uniform(jax.random.key(0), (4, 5))
    batch, key = Batch(x, jnp.array([0, 1, 2, 0])), jax.random.key(1)
    params, stats = model.init(jax.random.key(2), x)

    def loss_fn(x, y):
        return losses.cross_entropy(model.predict(params, stats, x), y)

    for xi in (0.5, 0.05):
        value, aux = recipe.objective(config, model, jnp.float32(xi))(
            params, stats, key, batch, 0.5
        )
        smooth = attacks.smooth(recipe.attack(config), norms.l2, xi)
        x_adv, info = smooth(key, loss_fn, *batch, 0.5)
        np.testing.assert_allclose(value, loss_fn(x_adv, batch.y).mean(), rtol=1e-5)
        np.testing.assert_allclose(aux.attack.factor, info.factor, rtol=1e-5)
    default = recipe.objective(config, model)(params, stats, key, batch, 0.5)[1]
    assert (default.attack.factor < aux.attack.factor).all()


def test_the_engine_shrinks_by_the_xi_of_each_step(tmp_path):
    """Of networks that hardly move, ‖g‖/√(‖g‖² + xi²) at two values of xi, for l2."""
    config = _recipe(xi=1.0, xi_follows_rate=True, norm="l2", eps=(0.1,), num_epochs=2)
    config.update(schedule_knots=(0.5,), schedule_values=(1.0, 0.1))
    config.update(num_train=200, num_test=50, batch_size=100, num_steps=1)
    config.update(test_num_steps=1, model="mlp", hidden=(8,), learning_rate=1e-9)
    workdir = Workdir(tmp_path, config)
    trained = trainer.train_networks(recipe.training(config), workdir)
    found = trained["factor"].values[:, 0, 0]
    last = parameters.read(str(tmp_path / "last.safetensors"))
    model, (x, y) = recipe.network(config), recipe.read(config, "train")
    params = jax.tree.map(lambda leaf: leaf[0], last.params)

    def loss(x):
        logits = model.predict(params, {}, x)
        return losses.cross_entropy(logits, y).sum()

    g = np.asarray(jax.grad(loss)(data.as_float(x)))
    length = np.sqrt((g**2).sum(axis=(1, 2, 3)))
    low, high = (np.mean(length / np.hypot(length, xi)) for xi in (1.0, 0.1))
    # Four steps, of which the second already meets the drop at a half of the run.
    np.testing.assert_allclose(found[1], high, rtol=1e-3)
    np.testing.assert_allclose(found[0], (low + high) / 2, rtol=0.1)
    assert low < 0.8 * high


def _small(**fields):
    config = _recipe(num_train=200, num_test=50, batch_size=100, num_steps=2)
    config.update(test_num_steps=1, test_batch_size=50, model="mlp", hidden=(8,))
    config.update(eps=(0.1,), augment=False)
    config.update(fields)
    return config


def test_a_watch_may_not_take_the_name_of_a_metric():
    watch = Watch(("loss",), lambda *_: {"loss": jnp.zeros(())})
    training = recipe.training(_small()).replaced(watches=(watch,))
    with pytest.raises(ValueError, match="metrics have these names"):
        engine.Engine(training)


def test_the_engine_follows_factor_sparsity_and_watches(tmp_path):
    config = _small(
        xi=0.01, l1_penalty=0.01, l1_proximal=True, eps=(0.0, 0.1), num_epochs=2
    )
    config.augment = True
    seen = []

    def watch(network, key, eps):
        seen.append((key, float(eps)))
        return {"bias": jnp.sum(jnp.abs(network[0]["Dense_0"]["bias"]))}

    training = recipe.training(config)
    watches = (*training.watches, Watch(("bias",), watch))
    workdir = Workdir(tmp_path, config)
    curves = trainer.train_networks(training.replaced(watches=watches), workdir)
    curves = curves.isel(seed=0)
    assert ((curves["factor"] > 0) & (curves["factor"] < 1)).all()
    assert (curves["sparsity"][1] > 0).all()
    last = parameters.read(str(tmp_path / "last.safetensors"))
    bias = np.abs(last.params["Dense_0"]["bias"]).sum(axis=1)
    np.testing.assert_allclose(curves["bias"][-1], bias, rtol=1e-6)
    weights = [layer["kernel"] for layer in last.params.values()]
    zeros = sum((w == 0).sum(axis=(1, 2)) for w in weights)
    share = zeros / sum(w[0].size for w in weights)
    np.testing.assert_allclose(curves["sparsity"][-1], share, rtol=1e-6)
    assert [eps for _, eps in seen] == pytest.approx([0.0, 0.1] * 2)
    assert (seen[0][0] == seen[2][0]).all()
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["factor"] == pytest.approx(list(curves["factor"].values[-1]))


@pytest.mark.parametrize("objective", [o for o in recipe.OBJECTIVES if o != "free"])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_every_objective_and_mode_takes_a_step(objective, mode):
    config = _recipe(objective=objective, attack_mode=mode, num_steps=1)
    model = recipe.network(config)
    x = jax.random.uniform(jax.random.key(0), (4, 5))
    step = train.make_step(
        recipe.objective(config, model), recipe.optimiser(config, lambda _: 0.1)
    )
    tx = recipe.optimiser(config, lambda _: 0.1)
    state = train.create(jax.random.key(1), model, tx, x)
    after, metrics = jax.jit(step)(state, Batch(x, jnp.array([0, 1, 2, 0])), 0.1)
    assert np.isfinite(metrics["loss"])
    assert (jax.tree.leaves(after.params)[1] != jax.tree.leaves(state.params)[1]).any()


@pytest.mark.parametrize(
    "change", ["objective=free", "weight_eps=0.01", "alignment=0.2"]
)
def test_other_ways_of_training_learn(change, tmp_path):
    found = _run([*SMALL, "--config.num_epochs=8", f"--config.{change}"], tmp_path)
    losses = found["robust_loss"].values.squeeze()
    assert losses[-1] < 0.6 * losses[0]
    assert found["test_robust_accuracy"][-1] > 0.5


def test_replays_share_the_rate_of_their_step():
    """A rate that falls to 0 after half of a run falls after half of its updates."""
    config = _recipe(objective="free", num_replays=3, num_epochs=2)
    config.schedule_knots, config.schedule_values = (0.5,), (1.0, 0.0)
    trained = engine.Engine(recipe.training(config))
    params = jnp.zeros(1)
    state, moves = trained._tx.init(params), []
    for _ in range(3 * trained.steps_per_epoch):
        updates, state = trained._tx.update(jnp.ones(1), state, params)
        moves.append(float(updates[0]) < 0)
    number = 3 * (trained.steps_per_epoch - 1)
    assert moves == [True] * number + [False] * 3


def test_terms_that_an_objective_does_not_have_are_refused(tmp_path, capsys):
    for changes in ("objective=free weight_eps=0.1", "objective=standard alignment=1"):
        options = [f"--config.{change}" for change in changes.split()]
        assert run.main([*SMALL, *options, f"--workdir={tmp_path}/w"]) == 2
        assert "choose from adversarial, trades, mart, or 0" in capsys.readouterr().err


def test_evaluation_reports_what_a_direct_attack_finds(tmp_path, capsys):
    trained = tmp_path / "trained"
    _run(SMALL, trained)
    capsys.readouterr()
    arguments = [
        f"{trained}/best.safetensors",
        *("--config.num_steps=3", "--config.num_restarts=2", "--config.num_test=60"),
        *("--config.curve=(0.,.1)", "--config.batch_size=25", "--config.eps=0.1"),
    ]
    assert evaluation.main([*arguments, f"--workdir={tmp_path}/w"]) == 0
    assert "robust accuracy, adversarial training" in capsys.readouterr().out
    results = json.loads((tmp_path / "w/results.json").read_text())["results"]
    found = arrays.restored(results).isel(network=0)
    released = parameters.read(trained / "best.safetensors")
    model = recipe.network(recipe.defaults())
    network = jax.tree.map(lambda leaf: leaf[0], tuple(released[:2]))
    test = data.subset(data.load("digits", split="test"), 60, seed=0)

    def predict(x):
        return model.predict(*network, x)

    options = {"rel_step_size": 1 / 30, "bounds": (0.0, 1.0)}
    start = attacks.in_ball(norms.linf)
    pgd = attacks.pgd(norms.linf, num_steps=3, start=start, **options)
    fgsm, keys = attacks.fgsm(norms.linf, bounds=(0.0, 1.0)), jax.random.key(0)
    by_attack = [
        evaluate.outcome(
            jax.random.fold_in(keys, i),
            *(predict, losses.cross_entropy, attack, *test, 0.1),
        )
        for attack, i in ((fgsm, 0), (pgd, 0), (pgd, 1))
    ]
    worst = evaluate.summary(evaluate.worst_case(*by_attack))
    assert found["reported"] == 100 * worst.robust_accuracy.value
    assert found["clean_acc"] == 100 * worst.accuracy.value
    assert found["curve"].sel(curve_eps=0, end="value") == worst.accuracy.value
    assert not found["unreliable"]
    facts = {"dataset": "digits", "architecture": "mlp", "num_examples": 60}
    assert (facts | {"norm": "linf", "eps": 0.1}).items() <= found.attrs.items()
    # Other parameters under the same name do not meet the results of these.
    params = jax.tree.map(lambda leaf: leaf + 1, released.params)
    parameters.write(trained / "best.safetensors", released._replace(params=params))
    assert evaluation.main([*arguments, f"--workdir={tmp_path}/w"]) == 2
    assert "holds another run: config.checkpoint_digest is" in capsys.readouterr().err


def _short(norm, *, num_classes):
    """An ensemble of seconds."""
    assert num_classes == 10
    apgd = attacks.auto.apgd_search(norm, num_steps=1)
    square = attacks.squares.square_search(norm, num_steps=200)
    return (
        Component("apgd-ce", apgd),
        Component("apgd t", targets.aimed(apgd, losses.targeted_dlr), num_repeats=2),
        Component("square", square),
    )


def test_an_ensemble_is_evaluated_component_by_component(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(autoattack.PROTOCOLS, "autoattack", _short)
    _run(SMALL, tmp_path / "trained")
    arguments = [
        f"{tmp_path}/trained",
        *("--config.protocol=autoattack", "--config.num_test=60"),
        *("--config.batch_size=25", "--config.eps=0.15", f"--workdir={tmp_path}/w"),
    ]
    # Interrupted in the second component, it goes on with that one.
    call, begun = survivors.Ensemble.__call__, []

    def stopping(self, *args, num_components=None, **options):
        begun.append(num_components)
        if begun == [0, 1, 2]:
            raise FileError("stopped here")
        return call(self, *args, num_components=num_components, **options)

    monkeypatch.setattr(survivors.Ensemble, "__call__", stopping)
    assert evaluation.main(arguments) == 2
    assert evaluation.main(arguments) == 0
    assert begun == [0, 1, 2, 2, 3]
    monkeypatch.undo()
    assert "apgd-ce: 47/47" in capsys.readouterr().out
    results = json.loads((tmp_path / "w/results.json").read_text())["results"]
    found = arrays.restored(results).isel(network=0)
    released = parameters.read(tmp_path / "trained/best.safetensors")
    network = testing.networks(*released[:2])[0]
    predict = partial(recipe.network(recipe.defaults()).predict, *network)
    test = data.subset(data.load("digits", split="test"), 60, seed=0)
    attack = ensembles.compiled(predict, _short(norms.linf, num_classes=10))
    direct = attack(jax.random.key(0), *test, 0.15)
    left = [(row.num_attacked - row.num_broken) / 60 for row in direct.rows]
    assert list(found["after"].sel(end="value")) == left
    assert found["autoattack_acc"] == found["reported"] == 100 * direct.robust.mean()
    assert found["clean_acc"] == 100 * direct.correct.mean()
    assert (found["num_broken"][:2] > 0).all()
    # Anyone may verify the number by one forward pass.
    with np.load(tmp_path / "w/stages/network-0-points.npz") as stored:
        x_adv, y = stored["values/x_adv"], stored["values/label"]
    np.testing.assert_array_equal(x_adv, direct.x_adv.reshape(60, -1))
    assert np.abs(x_adv - test.x.reshape(60, -1)).max() <= 0.15 * (1 + 1e-6)
    right = np.argmax(predict(x_adv.reshape(test.x.shape)), axis=1) == y
    assert 100 * np.mean(np.asarray(right)) == found["reported"]


def test_curves_are_of_pgd(tmp_path, capsys):
    _run(SMALL, tmp_path / "trained")
    options = ["--config.protocol=strong", "--config.curve=(0.1,)"]
    assert evaluation.main([f"{tmp_path}/trained", *options]) == 2
    assert "curves are of config.protocol = 'pgd'" in capsys.readouterr().err
    options = ["--config.protocol=strong", "--config.num_devices=2"]
    assert evaluation.main([f"{tmp_path}/trained", *options]) == 2
    assert "config.num_devices = 2" in capsys.readouterr().err


def test_a_run_goes_on_with_other_devices_but_no_other_seed(tmp_path, capsys):
    path = tmp_path / "w"
    _opened(path, run.parse(["run", *SMALL])[0])
    moved = [*SMALL, "--config.dispatch=loop", "--config.data_dir=elsewhere"]
    moved += ["--config.checkpoint_steps=3", "--config.test_batch_size=7"]
    _opened(path, run.parse(["run", *moved])[0])
    assert run.main([*SMALL, "--config.seed=1", f"--workdir={path}"]) == 2
    assert "config.seed is 0 there and 1 here" in capsys.readouterr().err


def test_a_network_that_diverges_in_its_last_step_is_not_released(tmp_path, capsys):
    arguments = [*SMALL, "--config.num_epochs=1", "--config.batch_size=1437"]
    arguments += ["--config.learning_rate=1e30", f"--workdir={tmp_path}/w"]
    assert run.main(arguments) == 1
    assert "the loss of eps = 0.1, seed 0 is nan at step 1" in capsys.readouterr().err
    assert not (tmp_path / "w/best.safetensors").exists()


def test_small_subsets_keep_all_classes(tmp_path):
    arguments = [*SMALL, "--config.num_train=16", "--config.batch_size=16"]
    results = _run(arguments, tmp_path / "w")
    assert np.isfinite(results["test_loss"]).all()
    kernel = parameters.read(tmp_path / "w/last.safetensors").params["Dense_1"][
        "kernel"
    ]
    assert kernel.shape == (1, 128, 10)


def test_the_engine_is_called_from_other_programs(tmp_path):
    config = run.parse(["run", *SMALL])[0]
    results = classifier.train_and_evaluate(config, tmp_path / "w")
    again = classifier.train_and_evaluate(config, str(tmp_path / "w"))
    assert again.identical(results)
    assert (tmp_path / "w/results.json").exists()


def test_evaluation_refuses_what_it_cannot_evaluate(tmp_path, capsys):
    assert (
        evaluation.main([f"{tmp_path}/no.safetensors", f"--workdir={tmp_path}/w"]) == 2
    )
    assert "no.safetensors holds no released parameters" in capsys.readouterr().err
    assert evaluation.main([]) == 2
    assert "give a .safetensors file" in capsys.readouterr().err
