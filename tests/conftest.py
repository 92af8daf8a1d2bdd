"""Every test runs with 8 devices made of the CPU, strict types and shapes, and warnings as errors."""

import os
import shutil
import socket

import commands
import store

# Small programs, each run a few times: compiling them without optimisation takes a third of the time.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
# XLA aborts the process where 8 threads have not met within 40 seconds, which they need not on two cores that others use.
os.environ["XLA_FLAGS"] += " --xla_cpu_collective_call_terminate_timeout_seconds=600"
os.environ["JAX_PLATFORMS"] = "cpu"
# One cache of compiled programs for all tests and the commands that they start, of whatever size: what is compiled here comes back.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(store.compiled_programs(os.environ["XLA_FLAGS"]))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax
import jaxtyping
import numpy as np
import pytest
from absl import flags

from mer_jax.data.corpus import Corpus, Utterance
from mer_jax.data.corpus_writer import write_corpus
from mer_jax.data.description import Description
from mer_jax.data.synthetic import VERSION
from mer_jax.runtime import program_cache

ROOT = store.ROOT
SHARED = ROOT.parent / "shared" / "data"  # real corpora, where someone has put them

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # Grain reads absl flags
program_cache.write_whole_entries()
if "PYTEST_XDIST_WORKER" not in os.environ:  # once, before there are workers
    store.drop_damaged(os.environ["JAX_COMPILATION_CACHE_DIR"])


def pytest_addoption(parser):
    parser.addoption("--kills", type=int, default=3, help="how often the slow tests kill a command and carry on")


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "error")
    # tensorboardX and TFDS are built against older protobuf and NumPy names.
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning:tensorboardX.*")
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning:tensorflow_datasets.*")
    config.addinivalue_line("filterwarnings", "ignore:Please install grpcio-status:ImportWarning")  # of TensorBoard's


@pytest.fixture(scope="session")
def cache_home(tmp_path_factory):
    """What the commands that a test starts take for the user's cache folder: empty but for the programs compiled by all tests."""
    home = tmp_path_factory.mktemp("cache")
    (home / "mer_jax").mkdir()
    (home / "mer_jax" / "xla").symlink_to(os.environ["JAX_COMPILATION_CACHE_DIR"])
    return home


@pytest.fixture(scope="session")
def demo_folder(cache_home):
    """The demo corpus where these commands look for it, made once for all tests; looks at its test part are counted here."""
    name = f"demo-v{VERSION}-seed0"
    folder = cache_home / "mer_jax" / name
    folder.mkdir()
    for path in store.demo_corpus(name).iterdir():
        (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope="session")
def demo(demo_folder):
    return Corpus(demo_folder)


@pytest.fixture(scope="session")
def framed():
    """Text, audio and drawn frames of 36 utterances."""
    return Corpus(store.demo_corpus("frames", counts={"train": 24, "valid": 6, "test": 6}, variant="frames"))


@pytest.fixture
def run_cli(cache_home, demo_folder):
    """Runs a command of the project in a process of its own; returns the finished process."""

    def run(*arguments, module="mer_jax.main"):
        return commands.run(module, arguments, user_env(cache_home))

    return run


def user_env(cache_home, devices=1):
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={devices}")
    return os.environ | {"XDG_CACHE_HOME": str(cache_home), "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def free_ports(count):
    """Ports of this machine that nobody listens on."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("localhost", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


SMALL_LABELS = ("calm", "glad", "cross")


def small_utterances(count=48, seed=0, longest=9):
    """Utterances of two modalities whose label can be read off the features; lengths vary, `audio` is one vector. Of three
    in four it is known what three raters said."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        label = int(rng.integers(3))
        text = rng.normal(size=(int(rng.integers(1, longest + 1)), 6)).astype(np.float16)
        text[:, label] += 2
        said = SMALL_LABELS[label]
        votes = (("r1", said), ("r2", SMALL_LABELS[(label + i) % 3]), ("r3", "other"), ("r1", SMALL_LABELS[i % 3]))
        yield Utterance(
            id=f"u{i:03d}",
            split=("train", "train", "train", "valid", "test", "test")[i % 6],
            dialogue=f"d{i // 6}",
            turn=i % 6,
            speaker=f"s{i % 2}",
            session="1",
            label=said,
            votes=votes if i % 4 else (),
            sentence=f"Sentence “{i}”.",
            start=float(i),
            end=i + 0.5,
            features={"text": text, "audio": rng.normal(size=(1, 4)).astype(np.float32)},
        )


def small_description(**changes):
    fields = {
        "name": "small", "labels": SMALL_LABELS, "extractors": {"text": "random", "audio": "random"},
        "label_words": SMALL_LABELS, "label_embeddings": np.eye(3, 6, dtype=np.float32), "label_space": "text",
        "protocol": {"name": "official", "description": "by position"}, "provenance": {"tool": "tests"},
        "licence": "none needed",
    }  # fmt: skip
    return Description(**(fields | changes))


def class_targets(label, classes):
    """What `Classification.targets` makes of labels alone."""
    return {"label": label, "target": np.eye(classes, dtype=np.float32)[label]}


@pytest.fixture
def small_corpus(tmp_path):
    """A fresh small corpus folder that a test may damage."""
    write_corpus(tmp_path / "small", small_utterances(), small_description(), shard_records=10)
    return tmp_path / "small"


def corpus_of(count):
    """The folder of a corpus of so many small utterances, made once for all tests; nobody may write into it but who counts a
    look at its test part, so that the count is anybody's."""

    def make(folder):
        write_corpus(folder / "small", small_utterances(count), small_description())

    return store.made_once(f"small-{count}", make) / "small"


@pytest.fixture(scope="session")
def hears_the_past(cache_home):
    """The workdir of a finished run that hears what was said before, on a small corpus, which lies beside it. Its test
    part has the last two of the six turns of every dialogue."""

    def command(workdir):
        write_corpus(workdir.parent / "small", small_utterances(240), small_description())
        return [
            f"--config={ROOT / 'configs' / 'lsgmer.py'}:tiny",
            f"--workdir={workdir}",
            f"--config.data.path={workdir.parent / 'small'}",
            "--config.data.context=past",
            "--config.context.width=16",
            "--config.train.batch_size=32",
            "--config.train.epochs=12",
        ]

    return store.finished_run("hears-the-past", command, user_env(cache_home))[0]


@pytest.fixture
def calls_unchecked():
    """For what is large: types and shapes of every call are checked on small inputs, where that does not take most of the time."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def no_weights(monkeypatch):
    """Imports encode words by a rule instead of the text encoder."""
    import packs

    from data_prep import import_pack

    monkeypatch.setattr(import_pack, "text_encoder", lambda arguments: packs.Words())


@pytest.fixture
def imported(tmp_path, capsys):
    """A function that imports a stranger's pack: the corpus, or None where it is refused, and what was said."""
    from strangers import import_or_refuse

    def import_(*arguments):
        return import_or_refuse(tmp_path / f"out{len(list(tmp_path.iterdir()))}", capsys, *arguments)

    return import_


@pytest.fixture(scope="session")
def dialogue_folder(tmp_path_factory):
    """A corpus of several sessions, speakers and dialogues, for protocols."""
    from dialogues import utterances

    path = tmp_path_factory.mktemp("protocols") / "corpus"
    write_corpus(path, utterances(), small_description(extractors={"text": "ones"}), shard_records=40)
    return path


@pytest.fixture(scope="session")
def raw_folder(tmp_path_factory):
    """IEMOCAP's and MELD's folders as they are handed out, small, with every known fault, without films and clips."""
    import trees

    root = tmp_path_factory.mktemp("raw")
    trees.iemocap(root, films=False)
    trees.meld(root, clips=False)
    return root


@pytest.fixture
def own_raw_folder(raw_folder, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(raw_folder, tmp_path / "raw")


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Small random encoders of the real classes, in folders."""
    from recordings import write_models

    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def speech(tmp_path_factory):
    """Eight wavs of different lengths."""
    from recordings import write_speech

    return write_speech(tmp_path_factory.mktemp("speech"))


@pytest.fixture(scope="session")
def portrait():
    """Eileen Collins, by NASA: 512 x 512, her face from about (178, 64) to (272, 162)."""
    return pytest.importorskip("skimage.data", reason="needs pip install -e '.[test]'").astronaut()
