"""Keys by file, command and variable; rotation under a running agent; shredding."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import LIMIT, Agent, hrl, hrl_json, need, run

import hrl as package
from hrl.cli import key_options
from hrl.cli.exits import Exit

Start = Callable[..., Agent]
SECRET = b"nobody but the board may know" * 200


def make_key(path: Path) -> Path:
    hrl("key", path)
    return path


def sealed(tmp_path: Path, name: str = "v") -> tuple[Path, Path]:
    """A vault with a sealed volume and a point in it, and its key file."""
    key, vault, disk = tmp_path / "key", tmp_path / "vault", tmp_path / f"{name}.img"
    if not key.exists():
        make_key(key)
    disk.touch()
    os.truncate(disk, 1 << 20)
    opened = package.Vault(vault, key_file=key, create=True)
    with package.Protection(disk, vault=opened, state=tmp_path / f"state-{name}", volume=name) as protection:
        protection.wait_ordered()
        protection.write(0, SECRET)
        protection.mark("secret plan")
        protection.wait_replicated()
    return vault, key


def test_a_key_comes_from_a_file_a_command_or_a_variable(tmp_path: Path) -> None:
    vault, key = sealed(tmp_path)
    for source in (["--key-file", key], ["--key-command", f"cat {key}"]):
        assert len(hrl_json("points", vault, *source)) == 1
    command = [sys.executable, "-P", "-m", "hrl", "points", str(vault), "--key-env", "VAULT_KEY"]
    done = subprocess.run(command, env=os.environ | {"VAULT_KEY": key.read_text()}, capture_output=True, timeout=LIMIT)
    assert done.returncode == 0 and b"secret plan" in done.stdout
    told = hrl("points", vault, "--key-env", "NO_SUCH_KEY", code=Exit.NOT_FOUND)
    assert "NO_SUCH_KEY" in told
    told = hrl("points", vault, "--key-env", "X", "--key-file", key, code=Exit.INVALID_INPUT)
    assert "--key-command" in told


@pytest.mark.parametrize(
    ("command", "kind"), [("exit 3", "unavailable"), ("echo abc", "invalid-input"), ("yes", "invalid-input")]
)
def test_a_failed_key_command_is_reported_without_its_output(tmp_path: Path, command: str, kind: str) -> None:
    told = hrl("points", tmp_path, "--key-command", command, code=Exit.of_kind(kind))
    assert "key command" in told and "abc" not in told and len(told.splitlines()) == 1


def test_a_key_command_ends_with_everything_that_it_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_options, "KEY_COMMAND_SECONDS_MAX", 0.3)
    began = time.monotonic()
    with pytest.raises(key_options.KeyRefused, match="longer than"):
        key_options.output_of("sleep 50 & sleep 50")
    assert time.monotonic() - began < 20


def test_a_key_file_that_others_may_read_is_a_warning(tmp_path: Path) -> None:
    vault, key = sealed(tmp_path)
    command = [sys.executable, "-P", "-m", "hrl", "points", str(vault), "--key-file", str(key)]
    for mode, warned in ((0o600, False), (0o644, True), (0o620, True)):
        key.chmod(mode)
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
        assert done.returncode == 0
        assert ("warning" in done.stderr and "chmod 600" in done.stderr) == warned, done.stderr


def test_keys_are_never_shown() -> None:
    key = package.Key(bytes(range(32)))
    assert repr(key) == f"Key({key.id})" and len(key.id) == 32
    assert key == package.Key(bytes(range(32)).hex() + "\n") and key != package.Key(bytes(32))
    with pytest.raises(package.HrlError, match="the safe") as raised:
        package.Key("f00f" * 15, origin="the safe")
    assert "f00f" not in str(raised.value)
    with pytest.raises(TypeError):
        package.Key(7)  # type: ignore[arg-type]


def test_a_running_agent_survives_a_rotation_and_starts_with_the_new_key(start: Start, tmp_path: Path) -> None:
    old, new = make_key(tmp_path / "old"), make_key(tmp_path / "new")
    agent = start(key_file=old)
    agent.write(0, b"before" * 100)
    hrl("point", agent.state, "--label", "before")
    told = hrl("rotate-key", agent.vault, "--key-file", old, "--new-key-command", f"cat {new}")
    assert "disk.img: opens" in told
    agent.write(8192, b"after" * 100)
    hrl("point", agent.state, "--label", "after")
    agent.stop()
    told = hrl("points", agent.vault, "--key-file", old, code=Exit.WRONG_KEY)
    assert package.Key.from_file(new).id in told and package.Key.from_file(old).id in told
    again = start(key_file=new)
    again.write(16384, b"again" * 100)
    hrl("point", again.state, "--label", "again")
    again.stop()
    labels = [point["label"] for point in hrl_json("points", agent.vault, "--key-file", new)]
    assert labels == ["before", "after", "again"]
    report = hrl_json("rotate-key", agent.vault, "disk.img", "--key-file", old, "--new-key-file", new)
    assert report["volumes"]["disk.img"] == {"wrapped": False, "unwrapped": False, "others": []}
    image = tmp_path / "image"
    hrl("restore", agent.vault, "disk.img", "--to", image, "--key-file", new)
    assert image.read_bytes() == agent.disk.read_bytes()


def segment_keys(vault: Path | str, key: Path) -> list[str | None]:
    """The names of the keys of a volume's segments, oldest first."""
    replica = package.Vault(vault, key_file=key).replica("disk.img")
    return [replica.open_segment(entry.object).summary().key for entry in replica.segments()]


def test_a_running_agent_goes_on_with_another_volume_key_and_after_a_kill(start: Start, tmp_path: Path) -> None:
    key = make_key(tmp_path / "key")
    agent = start(key_file=key)
    for at, label in enumerate(["before", "drawn", "after"]):
        if label == "drawn":
            told = hrl_json("rotate-key", agent.vault, "--key-file", key, "--volume-key")
            drawn = told["volumes"]["disk.img"]["volume_key"]
            assert drawn["generation"] == 2 and not drawn["was_drawn"]
        agent.write(8192 * at, label.encode() * 100)
        hrl("point", agent.state, "--label", label)
    agent.kill()
    again = start(key_file=key)
    again.write(65536, b"again" * 100)
    hrl("point", again.state, "--label", "again")
    again.stop()
    points = hrl_json("points", agent.vault, "--key-file", key)
    assert [point["label"] for point in points if point["label"]] == ["before", "drawn", "after", "again"]
    keys = segment_keys(agent.vault, key)
    assert keys[0] not in (None, drawn["key"]) and keys[-1] == drawn["key"]
    image = tmp_path / "image"
    hrl("restore", agent.vault, "disk.img", "--to", image, "--key-file", key)
    assert image.read_bytes() == again.disk.read_bytes()
    assert "are encrypted with earlier volume keys" in hrl("verify", agent.vault, "disk.img", "--key-file", key)
    hrl("compact", agent.vault, "--key-file", key, "--rekey")
    # Both keys at once.
    new = make_key(tmp_path / "new")
    told = hrl("rotate-key", agent.vault, "--key-file", key, "--new-key-file", new, "--volume-key")
    assert "generation 3" in told
    assert len(hrl_json("points", agent.vault, "--key-file", new)) == len(points)
    told = hrl("rotate-key", agent.vault, "--key-file", new, code=Exit.INVALID_INPUT)
    assert "--volume-key" in told


def test_a_shredded_volume_is_gone_and_the_others_are_not(tmp_path: Path) -> None:
    vault, key = sealed(tmp_path, "a")
    sealed(tmp_path, "b")
    everything = b"".join(path.read_bytes() for path in vault.rglob("*") if path.is_file())
    for plain in (SECRET[:16], b"secret plan"):
        assert plain not in everything
    hrl("shred", vault, "a", "--key-file", key, code=2)
    hrl("pin", vault, "a", "label:secret plan", "--legal-hold", "--key-file", key)
    told = hrl("shred", vault, "a", "--yes", "--key-file", key, code=Exit.FENCED)
    assert "legal hold" in told
    hrl("unpin", vault, "a", "label:secret plan", "--legal-hold", "--key-file", key)
    told = hrl("shred", vault, "a", "--yes", code=Exit.WRONG_KEY)
    assert "1 key deleted" in hrl("shred", vault, "a", "--yes", "--key-file", key)
    for command in (
        ["points", vault, "--volume", "a"],
        ["restore", vault, "a", "--to", tmp_path / "x"],
        ["verify", vault, "--volume", "a"],
    ):
        told = hrl(*command, "--key-file", key, code=Exit.WRONG_KEY)
        assert "shredded" in told
    assert [p["volume"] for p in hrl_json("points", vault, "--key-file", key)] == ["b"]
    report = hrl_json("shred", vault, "a", "--yes", "--data", "--key-file", key)
    assert report["was_shredded"] and report["objects_deleted"] > 0
    hrl("points", vault, "--volume", "a", "--key-file", key, code=Exit.NOT_FOUND)
    assert [info["name"] for info in package.Vault(vault).volumes()] == ["b"]


def test_promise_10_a_key_is_in_no_core_dump(tmp_path: Path) -> None:
    _, key = sealed(tmp_path)
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    if hard != resource.RLIM_INFINITY:
        pytest.skip("core dumps are limited here")
    script = "import os, sys; from hrl.cli.key_options import read_key; from pathlib import Path; "
    script += "key = read_key('', Path(sys.argv[1]), None, None) if sys.argv[2] == 'key' else None; os.abort()"
    for given, dumped in (("key", False), ("none", True)):
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", script, str(key), given],
            cwd=tmp_path,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (hard, hard)),
        )
        _, status = os.waitpid(process.pid, 0)
        process.returncode = status
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGABRT
        if Path("/proc/sys/kernel/core_pattern").read_text().strip() == "core":
            assert os.WCOREDUMP(status) == dumped, given


def test_a_key_command_decrypts_by_age(tmp_path: Path) -> None:
    """The example of the guide."""
    need("age", "age-keygen")
    vault, key = sealed(tmp_path)
    identity, wrapped = tmp_path / "identity.txt", tmp_path / "vault.key.age"
    run("age-keygen", "-o", identity)
    recipient = run("age-keygen", "-y", identity).strip()
    run("age", "-r", recipient, "-o", wrapped, key)
    key.unlink()
    assert len(hrl_json("points", vault, "--key-command", f"age -d -i {identity} {wrapped}")) == 1
    other = tmp_path / "other.txt"
    run("age-keygen", "-o", other)
    told = hrl("points", vault, "--key-command", f"age -d -i {other} {wrapped}", code=Exit.of_kind("unavailable"))
    assert "key command ended with code" in told


def test_a_key_command_decrypts_by_pkcs11(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of the guide, with SoftHSM as the token."""
    need("softhsm2-util", "pkcs11-tool", "openssl")
    module = next(Path("/usr/lib").glob("**/libsofthsm2.so"), None)
    if module is None:
        pytest.skip("libsofthsm2.so is not there")
    vault, key = sealed(tmp_path)
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {tmp_path / 'tokens'}\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm2.conf"))
    monkeypatch.setenv("HRL_PIN", "1234")
    run("softhsm2-util", "--init-token", "--free", "--label", "hrl", "--pin", "1234", "--so-pin", "5678")
    token = ["pkcs11-tool", "--module", module, "--token-label", "hrl", "--login", "--pin", "env:HRL_PIN"]
    run(*token, "--keypairgen", "--key-type", "rsa:3072", "--id", "01", "--label", "vault")
    public = tmp_path / "vault.der"
    run(*token, "--read-object", "--type", "pubkey", "--id", "01", "--output-file", public)
    wrapped = tmp_path / "vault.key.enc"
    padding = ("rsa_padding_mode:oaep", "rsa_oaep_md:sha1", "rsa_mgf1_md:sha1")
    options = [part for text in padding for part in ("-pkeyopt", text)]
    encrypt = ["openssl", "pkeyutl", "-encrypt", "-pubin", "-keyform", "DER", "-inkey", public, *options]
    run(*encrypt, "-in", key, "-out", wrapped)
    key.unlink()
    mechanism = ["--decrypt", "--mechanism", "RSA-PKCS-OAEP", "--hash-algorithm", "SHA-1", "--mgf", "MGF1-SHA1"]
    command = " ".join(str(part) for part in [*token, *mechanism, "--id", "01", "--input-file", wrapped])
    assert len(hrl_json("points", vault, "--key-command", command)) == 1
    wrong = command.replace("env:HRL_PIN", "0000")
    told = hrl("points", vault, "--key-command", wrong, code=Exit.of_kind("unavailable"))
    assert "key command ended with code" in told
