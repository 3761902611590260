"""Calls what is challenged, HOST:PORT (found at 127.0.0.1) with the authority's file: a gRPC client can't
solve it and has to be told so in its own terms."""

import sys

import grpc

target, authority = sys.argv[1:3]
host, port = target.rsplit(":", 1)
with open(authority, "rb") as file:
    credentials = grpc.ssl_channel_credentials(root_certificates=file.read())
channel = grpc.secure_channel(
    f"ipv4:127.0.0.1:{port}",
    credentials,
    options=[
        ("grpc.ssl_target_name_override", host),
        ("grpc.default_authority", host),
        ("grpc.enable_http_proxy", 0),
    ],
)
try:
    channel.unary_unary("/test.Echo/Unary")(b"hello", timeout=15)
    raise SystemExit("no error came")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.PERMISSION_DENIED, error
    print("denied ok", error.details())
