"""A gRPC server without generated code: bytes in, bytes out. Prints its address."""

from concurrent import futures

import grpc


def unary(request, context):
    context.set_trailing_metadata((("x-trailer", "from the server"),))
    return b"echo " + request


def server_stream(request, _context):
    for number in range(5):
        yield request + str(number).encode()


def bidirectional(requests, _context):
    for request in requests:
        yield b"re " + request


def error(_request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "on purpose")


HANDLERS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
    "Bidirectional": grpc.stream_stream_rpc_method_handler(bidirectional),
    "Error": grpc.unary_unary_rpc_method_handler(error),
}

server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", HANDLERS),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(f"127.0.0.1:{port}", flush=True)
server.wait_for_termination()
