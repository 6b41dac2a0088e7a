
// What is read of a report, and what nobody may take for checked.

const isText = (value) => typeof value === 'string';
const isCount = (value) => Number.isSafeInteger(value) && value >= 0;
const isObject = (value) => typeof value === 'object' && value !== null;

// Whether what is read and shown of a report is there, and is what it has to be.
function isReport(report) {
  const [header, mark] = [report?.header, report?.header?.checkpoint];
  return (
    isObject(header) &&
    isObject(mark) &&
    [report.name, report.title, header.log, header.from, header.to, header.scope, mark.root, mark.time, mark.note].every(isText) &&
    [header.records, header.decisions, mark.size].every(isCount) &&
    [header.complete, header.demo].every((value) => typeof value === 'boolean') &&
    Array.isArray(report.sections) &&
    report.sections.every(isSection)
  );
}

function isSection(section) {
  return (
    isObject(section) &&
    isText(section.title) &&
    Array.isArray(section.figures) &&
    (section.table === null || Array.isArray(section.table?.rows)) &&
    [section.momentary, section.of_policies].every((value) => typeof value === 'boolean')
  );
}

// The head of the report says what was signed.
async function reported(it, found) {
  const text = await textIn(it, REPORT);
  let report;
  try {
    report = JSON.parse(text);
  } catch {
    throw new Refused(REPORT, 'it is not JSON');
  }
  if (!isReport(report)) {
    throw new Refused(REPORT, 'it is not a report');
  }
  const { header } = report;
  it.report = report;
  found.facts.unshift(
    ['report', report.title],
    ['period', `${dated(header.from)} to ${dated(header.to)}`],
    ['scope', header.scope || 'every decision'],
  );
  if (header.demo) {
    found.facts.push(['demo', 'the records are those of a demo mesh']);
  }
  if (!it.facts || !it.checkpoint) {
    return new Nothing('there is no signed statement and checkpoint to compare it with');
  }
  const said = [['report', report.name], ['from', header.from], ['to', header.to]];
  const other = said.find(([fact, value]) => it.facts.get(fact) !== value);
  if (other) {
    throw new Refused(REPORT, `its ${other[0]} is another one than the statement over the sums names`);
  }
  const { size, root, exactly: time, note, key } = it.checkpoint;
  if (header.log !== key.name) {
    throw new Refused(REPORT, 'it is of another log than the one that signed the checkpoint');
  }
  const mark = header.checkpoint;
  if (mark.note !== textOf(note) || mark.size !== size || mark.time !== time || !same(unbase64(mark.root) ?? [], root)) {
    throw new Refused(REPORT, 'it rests on another checkpoint than is here');
  }
  return 'name, period and checkpoint are those that were signed';
}

// Why a witness does not speak for all of the package; nothing where one does.
function unseen(it) {
  if (it.seen !== undefined && it.checkpoint && it.seen >= it.checkpoint.size) {
    return null;
  }
  if (it.seen !== undefined) {
    return `what the witnesses of your keys have cosigned ends after ${it.seen.toLocaleString('en')} records, and the checkpoint does not`;
  }
  return it.claims?.length > 0 ? 'no witness whose key you gave has cosigned it' : 'no witness has cosigned it';
}

// What nobody may take for checked.
function remaining(it, found) {
  const all = [];
  if (it.report) {
    const { header, sections } = it.report;
    const count = (of) => sections.reduce((sum, section) => sum + (of(section) ?? 0), 0);
    const figures = count((section) => section.figures.length);
    const rows = count((section) => section.table?.rows.length);
    all.push(
      `The numbers, and which of the records are of the period: ${header.records} records and ${header.decisions} decisions in the head of the report, ${figures} figures and ${rows} rows in its ` +
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
    if (!header.complete) {
      all.push('The report itself says that its period is not complete.');
    }
  }
  all.push(
    'That the readable forms say what the records say: records.jsonl and .parquet are of the proven records, but what their columns say, and what the HTML, PDF, ' +
      'XLSX, CSV and OSCAL files say, was compared with their sums only.',
    'That the package has every record of the period: the owner of the log could leave some out, and make a report that agrees. “palisade audit verify” on the log shows that.',
    'That every file is one that belongs to a package: any that the log signed is taken.',
    'Decisions: none was made again under the policies in the package.',
    'That what a record says is true: a proxy that was taken over can keep silent, or lie.',
  );
  if (it.claims?.length > 0) {
    const claims = it.claims.map((claim) => `${claim.name} (${claim.time})`);
    all.push(`Cosignatures of witnesses whose keys you did not give: ${claims.join(', ')}.`);
  }
  const alone = unseen(it);
  if (alone) {
    all.push(`That nobody else was shown another log: ${alone}.`);
  }
  if (it.passed.length > 0) {
    all.push(`${it.passed.length} files of a file manager, which were passed over: ${it.passed.join(', ')}.`);
  }
  if (!found.vouched) {
    all.unshift('Whose log it is: the key came with the package, and whoever made the one could make the other.');
  }
  return all;
}
