"""Makes a license grant, waits until it is issued, and reads its key.

Usage: grant.py SERVER TOKEN_FILE REFERENCE APP_ID [CA_FILE]

Its classes are written from proto/ by `python -m grpc_tools.protoc`; PYTHONPATH says where they are. Prints JSON.
"""

import json
import sys

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from grantsmith.fulfillment.v1 import license_grant_pb2 as grants
from grantsmith.fulfillment.v1 import license_grant_service_pb2 as service
from grantsmith.fulfillment.v1 import license_grant_service_pb2_grpc as rpc


def reason(error):
    """The machine-readable reason that every error carries."""
    for detail in rpc_status.from_call(error).details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason
    return None


def main(server, token_file, reference, app_id, ca_file=None):
    with open(token_file, encoding="utf-8") as file:
        token = file.read().strip()
    caller = [("authorization", f"Bearer {token}")]
    if ca_file is None:
        channel = grpc.insecure_channel(server)
    else:
        with open(ca_file, "rb") as file:
            channel = grpc.secure_channel(server, grpc.ssl_channel_credentials(file.read()))
    with channel:
        stub = rpc.LicenseGrantServiceStub(channel)
        wish = service.CreateLicenseGrantRequest(
            license_grant=grants.LicenseGrant(licenses=[grants.License(app_id=app_id, max_hwid_slots=2)]),
            external_reference=reference,
            wait=True,
        )
        made = stub.CreateLicenseGrant(wish, metadata=caller, timeout=30)
        keys = stub.GetLicenseKey(service.GetLicenseKeyRequest(name=made.name), metadata=caller, timeout=30)
        try:
            stub.CreateLicenseGrant(wish, metadata=caller, timeout=30)
            again = None
        except grpc.RpcError as error:
            again = reason(error)
    return {
        "name": made.name,
        "state": grants.LicenseGrant.State.Name(made.state),
        "keys": [key.license_key for key in keys.license_keys],
        "again": again,
    }


if __name__ == "__main__":
    if len(sys.argv) not in (5, 6):
        sys.exit(__doc__)
    print(json.dumps(main(*sys.argv[1:])))
