
// The records of a package, each with its proof.

function* linesOf(name, bytes) {
  for (let at = 0, end; at < bytes.length; at = end + 1) {
    end = bytes.indexOf(0x0a, at);
    if (end < 0) {
      throw new Refused(name, 'its last line does not end');
    }
    yield bytes.subarray(at, end);
  }
}

// One line of a record with its proof.
function provenLine(bytes) {
  let line;
  try {
    line = JSON.parse(textOf(bytes));
  } catch {
    return null;
  }
  const keys = Object.keys(line ?? {}).sort().join();
  if (keys !== 'entry,leaf,proof' || !isCount(line.entry) || !isText(line.leaf) || !Array.isArray(line.proof)) {
    return null;
  }
  const [leaf, proof] = [unbase64(line.leaf), line.proof.map((hash) => (typeof hash === 'string' ? unbase64(hash) : null))];
  return leaf && proof.every((hash) => hash?.length === 32) ? { entry: line.entry, leaf, proof } : null;
}

// Each record is hashed, and its proof has to lead to the root that was signed.
async function proven(it, tell) {
  if (!it.checkpoint) {
    return new Nothing('without a checkpoint there is no root');
  }
  const tree = new Tree(it.checkpoint.size, it.checkpoint.root);
  it.entries = await provenIn(it, PROOFS, tree, tell);
  await rowed(it);
  const counted = it.report?.header.records ?? 0;
  if (it.entries.length < counted) {
    throw new Refused(REPORT, `it counts ${counted} records of the period, and ${PROOFS} has ${it.entries.length}`);
  }
  const others = it.files.has(IN_FORCE) ? await provenIn(it, IN_FORCE, tree, tell) : [];
  const more = others.length > 0 ? `, and ${others.length.toLocaleString('en')} about policies at another time` : '';
  return `${it.entries.length.toLocaleString('en')} records, each hashed and proven to be under the root${more}`;
}

// The records of a file of proofs, each of them proven to be in the log.
async function provenIn(it, name, tree, tell) {
  const proofs = await contentOf(it, name);
  const entries = [];
  for (const bytes of linesOf(name, proofs)) {
    const n = entries.length + 1;
    const line = provenLine(bytes);
    if (!line) {
      throw new Refused(name, `line ${n} is no record with its proof`);
    }
    const objection = await tree.objection(line.entry, await leafHash(line.leaf), line.proof);
    if (objection) {
      throw new Refused(name, `line ${n}, record ${line.entry} is not in the log: ${objection}`);
    }
    if (n > 1 && entries[n - 2] >= line.entry) {
      throw new Refused(name, `line ${n}, record ${line.entry} is out of order`);
    }
    entries.push(line.entry);
    if (n % STEP === 0) {
      tell('Records', bytes.byteOffset - proofs.byteOffset, proofs.length);
    }
  }
  return entries;
}

// The readable rows are of the same records.
async function rowed(it) {
  const rows = await contentOf(it, ROWS);
  let n = 0;
  for (const bytes of linesOf(ROWS, rows)) {
    let row = null;
    try {
      row = JSON.parse(textOf(bytes));
    } catch {
      // Told below.
    }
    if (row?.entry !== it.entries[n]) {
      throw new Refused(ROWS, `line ${n + 1} is not of the record that ${PROOFS} has there`);
    }
    n += 1;
  }
  if (n !== it.entries.length) {
    throw new Refused(ROWS, `it has ${n} rows, and ${PROOFS} has ${it.entries.length} records`);
  }
}
