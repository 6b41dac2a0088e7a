
// An evidence package as it lies unpacked: what is checked of it, in which order, and what
// is not.

const SUMS = 'SHA256SUMS';
const NOTE = 'SHA256SUMS.note';
const CHECKPOINT = 'checkpoint';
const KEY = 'checkpoint.pub';
const COSIGNED = 'cosigned';
const CONSISTENCY = 'cosigned.consistency';
const PROOFS = 'records/proofs.jsonl';
const IN_FORCE = 'records/in-force.jsonl';
const ROWS = 'records/records.jsonl';
const REPORT = 'report/report.json';
// The files that are read, and not only summed.
const READ = [SUMS, NOTE, CHECKPOINT, KEY, COSIGNED, CONSISTENCY, PROOFS, IN_FORCE, ROWS, REPORT];
// How often progress is told, in records.
const STEP = 250;

// What was found.
class Findings {
  constructor() {
    this.checks = [];
    this.refusals = [];
    this.files = [];
    this.facts = [];
    this.unchecked = [];
    this.vouched = false;
  }

  // Does a part of the work, which answers with what it has shown, or why that is nothing.
  async check(what, work) {
    try {
      const shown = await work();
      const nothing = shown instanceof Nothing;
      this.checks.push({ what, state: nothing ? 'open' : 'good', detail: nothing ? shown.why : shown });
    } catch (error) {
      if (!(error instanceof Refused)) {
        throw error;
      }
      const all = [error, ...(error.also ?? [])];
      this.refusals.push(...all.map(({ file, message }) => ({ file, why: message })));
      const more = all.length > 1 ? `, and ${all.length - 1} more` : '';
      this.checks.push({ what, state: 'bad', detail: `${error.file}: ${error.message}${more}` });
    }
  }
}

// That a part of the work has shown nothing.
class Nothing {
  constructor(why) {
    this.why = why;
  }
}

// Checks a package: `files` by their names, with keys that the reader trusts.
async function examine(files, keys, tell) {
  const found = new Findings();
  const it = { files, kept: new Map(), trusted: keys.filter((key) => key.type === OF_LOG) };
  it.witnesses = keys.filter((key) => key.type === OF_WITNESS);
  found.vouched = it.trusted.length > 0;
  await found.check('The key', () => keyed(it, found));
  await found.check('The signature over the sums', () => stated(it, found));
  await found.check('The sum of every file', () => summed(it, found, tell));
  await found.check('The checkpoint', () => checkpointed(it, found));
  await found.check('The report belongs to it', () => reported(it, found));
  await found.check('Every record is in the log', () => proven(it, tell));
  await found.check('Witnesses', () => witnessed(it, found));
  await found.check('Policies are named by their sum', () => named(found));
  found.unchecked = remaining(it, found);
  return found;
}

// The content of a file.
async function contentOf(it, name) {
  if (!it.kept.has(name)) {
    const file = it.files.get(name);
    if (!file) {
      throw new Refused(name, 'it is missing');
    }
    let bytes;
    try {
      bytes = new Uint8Array(await file.arrayBuffer());
    } catch (error) {
      throw new Refused(name, `it cannot be read: ${error.message}`);
    }
    if (!READ.includes(name)) {
      return bytes;
    }
    it.kept.set(name, bytes);
  }
  return it.kept.get(name);
}

async function textIn(it, name) {
  const text = textOf(await contentOf(it, name));
  if (text === null) {
    throw new Refused(name, 'it is not UTF-8');
  }
  return text;
}

// Which key counts: the reader's, or else what the package says of itself.
async function keyed(it, found) {
  const claimed = (await textIn(it, KEY)).trim();
  if (!found.vouched) {
    try {
      it.trusted = [await Key.parse(claimed)];
    } catch (error) {
      throw new Refused(KEY, error.message);
    }
    found.facts.push(['key', `${claimed}, which the package itself names`]);
    return new Nothing('you gave no key of a log: the one in the package was taken');
  }
  if (!it.trusted.some((key) => key.text === claimed)) {
    throw new Refused(KEY, `it is another key than you gave: ${claimed}`);
  }
  found.facts.push(['key', `${claimed}, which you gave`]);
  return 'the package names the key that you gave';
}

async function stated(it, found) {
  const { key, facts } = await statementOf(NOTE, await contentOf(it, NOTE), it.trusted);
  const sums = await contentOf(it, SUMS);
  if (facts.get('sha256sums') !== hex(await sha256(sums))) {
    throw new Refused(SUMS, 'it is not what was signed');
  }
  it.facts = facts;
  found.facts.push(['log', key.name], ['packed and signed', dated(facts.get('time'))]);
  return `${SUMS} is what ${key.name} signed`;
}

// Compares every file with its sum; every one that is wrong is named.
async function summed(it, found, tell) {
  const sums = new Map();
  for (const line of (await textIn(it, SUMS)).split('\n').slice(0, -1)) {
    const parts = /^([0-9a-f]{64}) {2}([A-Za-z0-9_-][A-Za-z0-9._-]*(?:\/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)$/.exec(line);
    if (!parts || sums.has(parts[2])) {
      throw new Refused(SUMS, 'a line is no sum and name');
    }
    sums.set(parts[2], parts[1]);
  }
  const names = [...new Set([...sums.keys(), ...it.files.keys()])].sort();
  const due = names.filter((name) => name !== SUMS && name !== NOTE);
  const wrong = [];
  for (const [i, name] of due.entries()) {
    tell('Sums of files', i, due.length);
    const file = { name, bytes: it.files.get(name)?.size ?? 0, why: null, sum: null };
    try {
      if (!sums.has(name)) {
        throw new Refused(name, 'no sum speaks for it: it was added');
      }
      file.sum = hex(await sha256(await contentOf(it, name)));
      if (file.sum !== sums.get(name)) {
        throw new Refused(name, 'its sum is not the one that stands in SHA256SUMS: it was changed');
      }
    } catch (error) {
      if (!(error instanceof Refused)) {
        throw error;
      }
      file.why = error.message;
      wrong.push(error);
    }
    found.files.push(file);
  }
  if (wrong.length > 0) {
    throw Object.assign(wrong[0], { also: wrong.slice(1) });
  }
  const counted = `${due.length} files, each as it was summed; none is missing and none was added`;
  return it.facts ? counted : new Nothing(`${counted}; but the sums are not shown to be signed`);
}

async function checkpointed(it, found) {
  const checkpoint = await checkpointOf(CHECKPOINT, await contentOf(it, CHECKPOINT), it.trusted);
  const { size, time, key } = checkpoint;
  if (it.facts && it.facts.get('checkpoint') !== String(size)) {
    throw new Refused(CHECKPOINT, 'it is another one than the statement over the sums names');
  }
  it.checkpoint = checkpoint;
  found.facts.push(['checkpoint', `${size.toLocaleString('en')} records, signed ${time}`]);
  return `${size.toLocaleString('en')} records under one root, signed by ${key.name} on ${time}`;
}

// The head of the report says what was signed.
async function reported(it, found) {
  let report;
  try {
    report = JSON.parse(await textIn(it, REPORT));
  } catch (error) {
    throw error instanceof Refused ? error : new Refused(REPORT, 'it is not JSON');
  }
  const header = report?.header;
  if (typeof header !== 'object' || header === null || !Array.isArray(report.sections)) {
    throw new Refused(REPORT, 'it is not a report');
  }
  it.report = report;
  found.facts.unshift(['report', report.title], ['period', `${dated(header.from)} to ${dated(header.to)}`]);
  if (!it.facts || !it.checkpoint) {
    return new Nothing('there is no signed statement and checkpoint to compare it with');
  }
  const said = [['report', report.name], ['from', header.from], ['to', header.to]];
  const other = said.find(([fact, value]) => it.facts.get(fact) !== value);
  if (other) {
    throw new Refused(REPORT, `its ${other[0]} is another one than the statement over the sums names`);
  }
  if (header.checkpoint?.note !== textOf(it.checkpoint.note)) {
    throw new Refused(REPORT, 'it rests on another checkpoint than is here');
  }
  return 'name, period and checkpoint are those that were signed';
}

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
  if (keys !== 'entry,leaf,proof' || typeof line.leaf !== 'string' || !Array.isArray(line.proof)) {
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

// What witnesses cosigned is of the same log, and they did.
async function witnessed(it, found) {
  if (!it.checkpoint) {
    return new Nothing('without a checkpoint there is nothing to compare with');
  }
  if (!it.files.has(COSIGNED)) {
    if (it.witnesses.length > 0) {
      throw new Refused(COSIGNED, `it is missing: ${it.witnesses[0].name} has cosigned nothing here`);
    }
    return new Nothing('no witness has cosigned: the package has no such file');
  }
  const cosigned = await checkpointOf(COSIGNED, await contentOf(it, COSIGNED), it.trusted);
  const proof = (await textIn(it, CONSISTENCY)).split('\n').slice(0, -1);
  if (proof.some((line) => !/^[0-9a-f]{64}$/.test(line))) {
    throw new Refused(CONSISTENCY, 'a line is no hash');
  }
  const hashes = proof.map((line) => Uint8Array.from(line.match(/../g), (byte) => parseInt(byte, 16)));
  const [first, second] = [it.checkpoint, cosigned].sort((a, b) => a.size - b.size);
  const objection = await inconsistency(first, second, hashes);
  if (objection) {
    throw new Refused(COSIGNED, `it is of another history: ${objection}`);
  }
  const claims = await cosignaturesOf(COSIGNED, cosigned.note, it.witnesses);
  const absent = it.witnesses.find((key) => !claims.some((claim) => claim.key === key));
  if (absent) {
    throw new Refused(COSIGNED, `${absent.name} has not cosigned it`);
  }
  it.claims = claims.filter((claim) => !claim.key);
  const shown = claims.filter((claim) => claim.key).map((claim) => `${claim.name} on ${claim.time}`);
  for (const claim of shown) {
    found.facts.push(['cosigned by', claim]);
  }
  const beyond = (it.entries ?? []).filter((entry) => entry >= cosigned.size).length;
  const rest = beyond > 0 ? `; ${beyond} records of the package came after it` : '';
  const same = `${cosigned.size.toLocaleString('en')} records of the same log`;
  return shown.length > 0
    ? `${same}, cosigned by ${shown.join(' and ')}${rest}`
    : new Nothing(`${same}, but you gave the key of no witness: who cosigned is not shown`);
}

async function named(found) {
  const bundles = found.files.filter((file) => file.name.startsWith('policy/'));
  const other = bundles.find((file) => file.name !== `policy/${file.sum}.bundle`);
  if (other) {
    throw new Refused(other.name, 'it is not named by its SHA-256');
  }
  return bundles.length > 0 ? `${bundles.length} of them; what they decide is not asked` : new Nothing('there are none');
}

// What nobody may take for checked.
function remaining(it, found) {
  const all = [];
  if (it.report) {
    const { header, sections } = it.report;
    const count = (of) => sections.reduce((sum, section) => sum + (of(section) ?? 0), 0);
    const figures = count((section) => section.figures?.length);
    const rows = count((section) => section.table?.rows?.length);
    all.push(
      `The numbers: ${header.records} records and ${header.decisions} decisions in the head of the report, ${figures} figures and ${rows} rows in its ` +
        `${sections.length} sections. They are what the log signed, and were not made again from the records. “palisade report verify” does that.`,
    );
    const whole = sections.filter((section) => section.momentary).map((section) => section.title);
    if (whole.length > 0) {
      all.push(`What describes the whole log, which is not here: ${whole.join(', ')}.`);
    }
    const asked = sections.filter((section) => section.of_policies).map((section) => section.title);
    if (asked.length > 0) {
      all.push(`What policies were asked for, which records do not bear out: ${asked.join(', ')}.`);
    }
    if (header.complete !== true) {
      all.push('The report itself says that its period is not complete.');
    }
  }
  all.push(
    'That the readable forms say what the records say: records.jsonl and .parquet are of the proven records, but what their columns say, and what the HTML, PDF, ' +
      'XLSX, CSV and OSCAL files say, was compared with their sums only.',
    'That the package has every record of the period: the owner of the log could leave some out, and make a report that agrees. “palisade audit verify” on the log shows that.',
    'Decisions: none was made again under the policies in the package.',
    'That what a record says is true: a proxy that was taken over can keep silent, or lie.',
  );
  if (it.claims?.length > 0) {
    const claims = it.claims.map((claim) => `${claim.name} (${claim.time})`);
    all.push(`Cosignatures of witnesses whose keys you did not give: ${claims.join(', ')}.`);
  } else if (!it.files.has(COSIGNED)) {
    all.push('That nobody else was shown another log: no witness has cosigned it.');
  }
  if (!found.vouched) {
    all.unshift('Whose log it is: the key came with the package, and whoever made the one could make the other.');
  }
  return all;
}
