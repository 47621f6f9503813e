"""The malicious provider: it keeps the objects of a sealed vault, and alters, swaps, deletes or withholds them."""

import shutil
from pathlib import Path

from attackers_parts import content_of, protect
from conftest import hrl

import hrl as package
from hrl.cli.exits import Exit


def sealed(directory: Path) -> tuple[Path, Path]:
    """A sealed vault and its key."""
    key = directory / "vault.key"
    hrl("key", key)
    protect(package.Vault(str(directory / "vault"), key=package.Key.from_file(key), create=True), directory)
    return directory / "vault", key


def test_every_altered_object_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    """Promise 10: whatever one object becomes, a reader gets the right bytes or an error, and never other bytes."""
    vault, key = sealed(tmp_path)
    opened = package.Vault(str(vault), key=package.Key.from_file(key))
    whole = content_of(opened)
    objects = sorted(path for path in (vault / "volumes").rglob("*") if path.is_file())
    noticed = 0
    for path in objects:
        sound = path.read_bytes()
        others = [other.read_bytes() for other in objects if other != path and other.parent == path.parent]
        altered = bytearray(sound)
        altered[len(sound) // 2] ^= 1
        for content in [bytes(altered), sound[:-1], b"", None, *others[:2]]:
            path.unlink()
            if content is not None:
                path.write_bytes(content)
            try:
                found = content_of(package.Vault(str(vault), key=package.Key.from_file(key)))
                assert found == whole, f"{path} became {content!r:.40}: other bytes"
            except package.HrlError as error:
                noticed += 1
                assert str(error)
            path.unlink(missing_ok=True)
            path.write_bytes(sound)
    assert noticed > len(objects), f"{noticed} alterations of {len(objects)} objects were errors"
    assert content_of(opened) == whole


def test_an_older_copy_is_noticed_by_who_saw_the_newer_one(tmp_path: Path) -> None:
    """A key does not prove that a copy is the newest: memory, expectations and age do."""
    vault, key = sealed(tmp_path)
    old = tmp_path / "old"
    shutil.copytree(vault, old)
    opened = package.Vault(str(vault), key=package.Key.from_file(key))
    with package.Protection(tmp_path / "disk.img", vault=opened, state=tmp_path / "state-disk", volume="disk") as protection:
        protection.wait_ordered()
        newest = protection.mark("third").id
        protection.wait_replicated()
    hrl("points", vault, "--key-file", key)
    shutil.rmtree(vault)
    shutil.copytree(old, vault)
    assert "went back" in hrl("points", vault, "--key-file", key, code=Exit.DIVERGED)
    expected = ["--key-file", key, "--no-memory", "--expect-at-least", newest]
    assert hrl("restore", vault, "disk", "--to", tmp_path / "out", *expected, code=Exit.DIVERGED)
    assert not (tmp_path / "out").exists()
