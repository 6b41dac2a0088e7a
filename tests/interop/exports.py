"""Reads exports with other people's programs: DuckDB, and the published schema of OCSF.

exports.py FILE.parquet FILE.ocsf RECORDS DENIED
"""

import json
import sys

import duckdb
import jsonschema
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

parquet, events, records, denied = sys.argv[1:]


def one(sql):
    return duckdb.sql(sql.replace("FILE", f"read_parquet('{parquet}')")).fetchone()[0]


assert one("select count(*) from FILE") == int(records)
assert one("select count(distinct entry) from FILE") == int(records)
no = "decision in ('forbidden', 'not_permitted', 'undecided')"
assert one(f"select count(*) from FILE where {no}") == int(denied)
assert one("select typeof(time) from FILE limit 1") == "TIMESTAMP WITH TIME ZONE"
assert one("select typeof(policy) from FILE limit 1") == "VARCHAR[]"
assert one("select typeof(status) from FILE limit 1") == "UBIGINT"
assert one("select typeof(enforced) from FILE limit 1") == "BOOLEAN"
assert one("select count(*) from FILE where decision = 'allow' and len(policy) = 0") == 0
facts = duckdb.sql(f"select key, value from parquet_kv_metadata('{parquet}')").fetchall()
facts = {bytes(k).decode(): bytes(v).decode() for k, v in facts}
assert facts["palisade.records"] == records, facts

schema = OcsfJsonSchemaEmbedded(get_ocsf_schema(version="1.8.0"))
schema = schema.get_class_schema("api_activity", profiles=["security_control"])
check = jsonschema.Draft202012Validator(schema)
# A validator that takes anything would prove nothing.
assert list(check.iter_errors({"class_uid": 6003}))
read = 0
for line in open(events, encoding="utf-8"):
    event = json.loads(line)
    for mistake in check.iter_errors(event):
        sys.exit(f"{list(mistake.path)}: {mistake.message}\n{line}")
    assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"]
    read += 1
assert read == int(records), (read, records)
