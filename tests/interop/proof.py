"""Verifies one record of a log with nothing of ours: hashlib, and PyPI's `cryptography`.

Reads what C2SP specifies (signed-note, tlog-checkpoint, tlog-tiles, tlog-proof) and says why
it believes nothing, when it does not. FOLDER is any copy of a log's files.

    proof.py FOLDER KEY PROOF RECORD
"""

import base64
import hashlib
import pathlib
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

ED25519 = 1
TILE_WIDTH = 256


class Refused(Exception):
    """What is not as it should be."""


def demand(holds, otherwise):
    if not holds:
        raise Refused(otherwise)


def sha256(data):
    return hashlib.sha256(data).digest()


def node(left, right):
    return sha256(b"\x01" + left + right)


def unbase64(text):
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise Refused(f"not base64: {text}") from error


class Key:
    """A verifier key of signed-note: NAME+HASH+KEY."""

    def __init__(self, text):
        self.name, digest, key = text.strip().split("+", 2)
        key = unbase64(key)
        demand(key[0] == ED25519 and len(key) == 33, "not an Ed25519 key")
        self.id = sha256(self.name.encode() + b"\n" + key)[:4]
        demand(self.id.hex() == digest, "the hash is not the key's")
        self.public = Ed25519PublicKey.from_public_bytes(key[1:])

    def open(self, note):
        """The text of a note that this key has signed."""
        text, found, signatures = note.rpartition("\n\n")
        demand(found and signatures.endswith("\n"), "not a signed note")
        text += "\n"
        for line in signatures.splitlines():
            dash, name, blob = line.split(" ", 2)
            demand(dash == "\u2014", "not a signature line")
            blob = unbase64(blob)
            if name == self.name and blob[:4] == self.id:
                try:
                    self.public.verify(blob[4:], text.encode())
                except InvalidSignature as error:
                    raise Refused(f"the signature of {name} does not verify") from error
                return text
        raise Refused(f"not signed by {self.name}")

    def checkpoint(self, note):
        """Size and root that a checkpoint commits to."""
        origin, size, root, *_ = self.open(note).splitlines()
        demand(origin == self.name, "a checkpoint of another log")
        return int(size), unbase64(root)


def tile(folder, level, index, size):
    """Hashes of a tile, as they stand in a tree of `size` leaves."""
    width = min((size >> 8 * level) - index * TILE_WIDTH, TILE_WIDTH)
    name, rest = f"{index % 1000:03}", index // 1000
    while rest:
        name, rest = f"x{rest % 1000:03}/{name}", rest // 1000
    path = folder / "tile" / str(level) / (name if width == TILE_WIDTH else f"{name}.p/{width}")
    data = path.read_bytes()
    demand(len(data) == 32 * width, f"{path} has {len(data)} bytes")
    return [data[at : at + 32] for at in range(0, len(data), 32)]


def tree_hash(hashes):
    """RFC 6962 section 2.1, over leaf hashes."""
    if len(hashes) == 1:
        return hashes[0]
    split = 1 << (len(hashes) - 1).bit_length() - 1
    return node(tree_hash(hashes[:split]), tree_hash(hashes[split:]))


def leaves(folder, size):
    """All leaf hashes; tiles above them must say the same."""
    level0 = [tile(folder, 0, at, size) for at in range(-(-size // TILE_WIDTH))]
    full = [hashes for hashes in level0 if len(hashes) == TILE_WIDTH]
    above = []
    for at in range(-(-len(full) // TILE_WIDTH)):
        above += tile(folder, 1, at, size)
    demand(above == [tree_hash(hashes) for hashes in full], "a tile of level 1 contradicts level 0")
    return [leaf for hashes in level0 for leaf in hashes]


def root_of(leaf, index, size, proof):
    """Where a proof leads (RFC 9162 section 2.1.3.2)."""
    demand(index < size, "the index is beyond the tree")
    at, last, found = index, size - 1, leaf
    for sibling in proof:
        demand(last > 0, "too many hashes")
        if at & 1 or at == last:
            found = node(sibling, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node(found, sibling)
        at, last = at >> 1, last >> 1
    demand(last == 0, "too few hashes")
    return found


def main():
    folder, key, proof, record = map(pathlib.Path, sys.argv[1:])
    key = Key(key.read_text(encoding="utf-8"))
    size, root = key.checkpoint((folder / "checkpoint").read_text(encoding="utf-8"))
    tree = leaves(folder, size)
    demand(tree_hash(tree) == root, "the tiles have another root than was signed")

    head, _, note = proof.read_text(encoding="utf-8").partition("\n\n")
    header, index, *hashes = head.split("\n")
    demand(header == "c2sp.org/tlog-proof@v1", "not a tlog-proof")
    index = int(index.removeprefix("index "))
    proven, proven_root = key.checkpoint(note)
    leaf = sha256(b"\x00" + record.read_bytes())
    found = root_of(leaf, index, proven, [unbase64(line) for line in hashes])
    demand(found == proven_root, "the proof leads to another root")
    # The checkpoint of the proof is a prefix of the log that is there now.
    demand(proven <= size and tree_hash(tree[:proven]) == proven_root, "the log forks from the proof")
    demand(tree[index] == leaf, "the tile has another record there")
    print(f"verified: record {index} of {size}, signed by {key.name}")


if __name__ == "__main__":
    try:
        main()
    except Refused as refused:
        sys.exit(f"refused: {refused}")
