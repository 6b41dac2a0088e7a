'use strict';

// Merkle trees (RFC 6962, section 2.1). A hash is a Uint8Array of 32 bytes.

// What is not as it should be: in which file, and why.
class Refused extends Error {
  constructor(file, why) {
    super(why);
    this.file = file;
  }
}

function joined(parts) {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

async function sha256(...parts) {
  const bytes = parts.length === 1 ? parts[0] : joined(parts);
  return new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
}

function same(a, b) {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

function hex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

const OF_LEAF = Uint8Array.of(0);
const OF_NODE = Uint8Array.of(1);

const leafHash = (leaf) => sha256(OF_LEAF, leaf);
const nodeHash = (left, right) => sha256(OF_NODE, left, right);

// Half of a number, rounded down: bit operations of JavaScript end at 32 bits.
const half = (n) => Math.floor(n / 2);
const isOdd = (n) => n % 2 === 1;

// The nodes on the way from leaf `index` to the root of a tree of `size` leaves, below the
// root: each by its level and place, and whether its sibling stands to its left.
function way(index, size) {
  const nodes = [];
  let [at, last, level] = [index, size - 1, 0];
  while (last > 0) {
    // At the right edge a node without a sibling is its own parent.
    while (at === last && !isOdd(at)) {
      [at, last, level] = [half(at), half(last), level + 1];
    }
    nodes.push({ level, at, left: isOdd(at) });
    [at, last, level] = [half(at), half(last), level + 1];
  }
  return nodes;
}

// Records under one signed root. Neighbours have most of their way to it in common: what one
// proof has shown need not be hashed again for the next, but has to be the same there.
class Tree {
  constructor(size, root) {
    this.size = size;
    this.root = root;
    this.before = { nodes: [], hashes: [], proof: [] };
  }

  // Says why `leaf` is not shown to be record `index`; nothing where it is.
  async objection(index, leaf, proof) {
    if (!Number.isSafeInteger(index) || index < 0 || index >= this.size) {
      return 'the log has no such record under the checkpoint';
    }
    const nodes = way(index, this.size);
    if (nodes.length !== proof.length) {
      return `its proof has ${proof.length} hashes where ${nodes.length} are due`;
    }
    const hashes = [];
    let found = leaf;
    for (const [i, node] of nodes.entries()) {
      const seen = this.seen(node, found);
      if (seen >= 0) {
        const rest = this.before.proof.slice(seen);
        if (!rest.every((hash, k) => same(hash, proof[i + k]))) {
          return 'its proof leads to another root than was signed';
        }
        hashes.push(...this.before.hashes.slice(seen));
        this.before = { nodes, hashes, proof };
        return null;
      }
      hashes.push(found);
      found = node.left ? await nodeHash(proof[i], found) : await nodeHash(found, proof[i]);
    }
    if (!same(found, this.root)) {
      return 'its proof leads to another root than was signed';
    }
    this.before = { nodes, hashes, proof };
    return null;
  }

  // Where on the way of the proof before stands this very node.
  seen(node, hash) {
    const { nodes, hashes } = this.before;
    return nodes.findIndex((other, i) => other.level === node.level && other.at === node.at && same(hashes[i], hash));
  }
}

// Says why a tree is not shown to be the beginning of another (RFC 9162, section 2.1.4.2);
// nothing where it is.
async function inconsistency(first, second, proof) {
  if (first.size === second.size) {
    return proof.length === 0 && same(first.root, second.root) ? null : 'they have one size and two roots';
  }
  if (first.size === 0) {
    return proof.length === 0 ? null : 'nothing is to be proven of an empty log';
  }
  let whole = first.size;
  while (!isOdd(whole)) {
    whole = half(whole);
  }
  const hashes = whole === 1 ? [first.root, ...proof] : [...proof];
  let [at, last] = [first.size - 1, second.size - 1];
  while (isOdd(at)) {
    [at, last] = [half(at), half(last)];
  }
  if (hashes.length === 0) {
    return 'the proof has too few hashes';
  }
  let [old, found] = [hashes[0], hashes[0]];
  for (const hash of hashes.slice(1)) {
    if (last === 0) {
      return 'the proof has too many hashes';
    }
    if (isOdd(at) || at === last) {
      old = await nodeHash(hash, old);
      found = await nodeHash(hash, found);
      while (!isOdd(at) && at !== 0) {
        [at, last] = [half(at), half(last)];
      }
    } else {
      found = await nodeHash(found, hash);
    }
    [at, last] = [half(at), half(last)];
  }
  const holds = last === 0 && same(old, first.root) && same(found, second.root);
  return holds ? null : 'the one does not begin with the other';
}
