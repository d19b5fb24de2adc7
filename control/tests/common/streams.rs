//! One end of a TCP stream, in Python: both ends must print the same.

/// Sends (`connect`) or receives (`listen`) so many bytes at an address, and prints their number and sum.
pub const PROGRAM: &str = "
import socket, sys, hashlib
mode, address, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ':' in address else socket.AF_INET
block = bytes((i * 31 + i // 256) % 256 for i in range(65521))
digest = hashlib.sha256(); got = 0
with socket.socket(family, socket.SOCK_STREAM) as s:
    if mode == 'listen':
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((address, 5001)); s.listen(); s.settimeout(30)
        c, _ = s.accept()
        while data := c.recv(1 << 20):
            got += len(data); digest.update(data)
    else:
        s.settimeout(30); s.connect((address, 5001))
        while got < size:
            data = block[:size - got]; s.sendall(data); got += len(data); digest.update(data)
        s.shutdown(socket.SHUT_WR); s.recv(1)
print(got, digest.hexdigest(), flush=True)
";
