"""Calls grpc_server.py through the edge: HOST:PORT (found at 127.0.0.1) and the authority's file."""

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

response, call = channel.unary_unary("/test.Echo/Unary").with_call(b"hello", timeout=15)
assert response == b"echo hello", response
trailers = dict(call.trailing_metadata())
assert trailers.get("x-trailer") == "from the server", trailers
print("unary ok")

parts = list(channel.unary_stream("/test.Echo/ServerStream")(b"n", timeout=15))
assert parts == [b"n0", b"n1", b"n2", b"n3", b"n4"], parts
print("server stream ok")


def conversation():
    # Each message waits for the answer to the one before: nothing may be held back.
    import queue

    answers = queue.Queue()

    def requests():
        for number in range(4):
            yield str(number).encode()
            if number < 3:
                assert answers.get(timeout=15) == b"re " + str(number).encode()

    for answer in channel.stream_stream("/test.Echo/Bidirectional")(requests(), timeout=15):
        answers.put(answer)
        yield answer


assert list(conversation()) == [b"re 0", b"re 1", b"re 2", b"re 3"]
print("bidirectional ok")

try:
    channel.unary_unary("/test.Echo/Error")(b"", timeout=15)
    raise SystemExit("no error came")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
    assert error.details() == "on purpose", error
print("error ok")
