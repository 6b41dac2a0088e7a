"""Fetches an X.509-SVID and the trust bundles with PyPI's `spiffe` package.

Takes the socket from SPIFFE_ENDPOINT_SOCKET, as every SPIFFE client does, and
prints what it got as JSON. Nothing here knows Palisade: that is the point.

    python -m venv venv && venv/bin/pip install spiffe
    SPIFFE_ENDPOINT_SOCKET=unix:///run/palisade/agent.sock venv/bin/python workload_api.py
"""

import json

from spiffe import WorkloadApiClient, X509Source


def describe(svid):
    return {
        "spiffe_id": str(svid.spiffe_id),
        "serial": format(svid.leaf.serial_number, "x"),
        "not_after": svid.leaf.not_valid_after_utc.isoformat(),
        "chain": len(svid.cert_chain),
    }


def main():
    client = WorkloadApiClient()
    svid = client.fetch_x509_svid()
    bundles = client.fetch_x509_bundles()
    with X509Source() as source:
        from_source = describe(source.get_x509_context().default_svid)
    answer = {
        "svid": describe(svid),
        "bundles": {
            f"spiffe://{bundle.trust_domain.name}": len(bundle.x509_authorities)
            for bundle in bundles.bundles
        },
        "source": from_source,
    }
    print(json.dumps(answer, indent=2))


if __name__ == "__main__":
    main()
