# Traffic of the soak: servers and clients that check what they get, and print their counts, as JSON, every second.
import hashlib, json, os, random, signal, socket, struct, sys, threading, time

COUNTS = {"ok": 0, "failed": 0, "corrupt": 0, "bytes": 0}
LOCK = threading.Lock()
BLOCK = hashlib.shake_128(b"soak").digest(1 << 16)


def count(what, number=1):
    with LOCK:
        COUNTS[what] += number


def tell():
    while True:
        time.sleep(1)
        print(json.dumps(COUNTS), flush=True)


def exactly(s, length):
    data = b""
    while len(data) < length:
        more = s.recv(length - len(data))
        if not more:
            raise OSError("closed")
        data += more
    return data


def send_bytes(s, length, rate=None):
    start, sent = time.monotonic(), 0
    while sent < length:
        data = BLOCK[: length - sent]
        s.sendall(data)
        sent += len(data)
        if rate and sent / rate > time.monotonic() - start:
            time.sleep(sent / rate - (time.monotonic() - start))


def receive_bytes(s, length, rate=None):
    """Whether they are those that `send_bytes` sends."""
    start, got, same = time.monotonic(), 0, True
    while got < length:
        data = exactly(s, min(len(BLOCK), length - got))
        same, got = same and data == BLOCK[: len(data)], got + len(data)
        if rate and got / rate > time.monotonic() - start:
            time.sleep(got / rate - (time.monotonic() - start))
    return same


def serve_one(s):
    try:
        s.settimeout(30)
        what, length = struct.unpack("!cQ", exactly(s, 9))
        if what == b"G":
            send_bytes(s, length)
        else:
            s.sendall(b"=" if receive_bytes(s, length) else b"!")
        s.shutdown(socket.SHUT_WR)
        s.recv(1)
    except OSError:
        pass
    finally:
        s.close()


def serve():
    echo = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    echo.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    echo.bind(("::", 5002))

    def answer():
        while True:
            try:
                data, sender = echo.recvfrom(65536)
                echo.sendto(data, sender)
            except OSError:
                pass

    threading.Thread(target=answer, daemon=True).start()
    server = socket.create_server(("::", 5001), family=socket.AF_INET6, dualstack_ipv6=True, backlog=256)
    while True:
        s, _ = server.accept()
        threading.Thread(target=serve_one, args=(s,), daemon=True).start()


def sources(address):
    """Addresses of this host that may call `address`: several of IPv4, so that several hosts are translated."""
    if ":" in address:
        return [None]
    return SOURCES or [None]


def connect(address, port):
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    s.settimeout(10)
    source = random.choice(sources(address))
    try:
        if source:
            s.bind((source, 0))
        s.connect((address, port))
    except OSError:
        s.close()
        raise
    return s


def short(address, port, rate, threads=8):
    """Short connections: most end as they should, some by a reset, some are forgotten open."""

    def calls():
        while True:
            time.sleep(random.expovariate(rate / threads))
            try:
                s = connect(address, port)
                try:
                    length = random.choice([0, 1, 500, 2000, 20000])
                    s.sendall(struct.pack("!cQ", b"G", length))
                    if receive_bytes(s, length):
                        count("ok")
                        count("bytes", length)
                    else:
                        count("corrupt")
                    end = random.random()
                    if end < 0.1:
                        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    elif end < 0.12:
                        time.sleep(random.uniform(0, 3))
                finally:
                    s.close()
            except OSError:
                count("failed")
                time.sleep(0.05)

    for _ in range(threads):
        threading.Thread(target=calls, daemon=True).start()


def bulk(address, port, rate):
    def transfers():
        while True:
            length = random.randrange(100_000, 4_000_000)
            try:
                with connect(address, port) as s:
                    if random.random() < 0.5:
                        s.sendall(struct.pack("!cQ", b"G", length))
                        same = receive_bytes(s, length, rate)
                    else:
                        s.sendall(struct.pack("!cQ", b"P", length))
                        send_bytes(s, length, rate)
                        same = exactly(s, 1) == b"="
                count("ok" if same else "corrupt")
                count("bytes", length)
            except OSError:
                count("failed")
                time.sleep(0.2)

    threading.Thread(target=transfers, daemon=True).start()


def datagrams(address, port, rate):
    """Questions that are answered by the same bytes; the longer ones go in fragments."""

    def ask():
        while True:
            s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
            try:
                source = random.choice(sources(address))
                if source:
                    s.bind((source, 0))
                s.connect((address, port))
                s.settimeout(1)
                for _ in range(random.randrange(1, 20)):
                    time.sleep(random.expovariate(rate))
                    length = random.choice([18, 100, 1000, 1400, 3000, 7000])
                    at = random.randrange(len(BLOCK) - length)
                    s.send(BLOCK[at : at + length])
                    answer = s.recv(65536)
                    # A late answer to an earlier question is whole, too.
                    count("ok" if answer in BLOCK else "corrupt")
                    count("bytes", length)
            except OSError:
                count("failed")
                time.sleep(0.05)
            finally:
                s.close()

    threading.Thread(target=ask, daemon=True).start()


def pages(address, port, rate):
    """The status page, read to its end."""

    def read():
        while True:
            time.sleep(random.expovariate(rate))
            try:
                with connect(address, port) as s:
                    s.sendall(b"GET /status.json HTTP/1.1\r\nHost: router\r\nConnection: close\r\n\r\n")
                    head, _, body = b"".join(iter(lambda: s.recv(65536), b"")).partition(b"\r\n\r\n")
                json.loads(body)
                count("ok" if head.startswith(b"HTTP/1.1 200 ") else "corrupt")
                count("bytes", len(body))
            except ValueError:
                # It ends early if its host stack is made anew.
                count("failed")
            except OSError:
                count("failed")
                time.sleep(0.05)

    threading.Thread(target=read, daemon=True).start()


def scan(address, rate):
    """Calls to ports that no rule allows. Nobody may answer."""

    def knock():
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        poll = []
        while True:
            time.sleep(random.expovariate(rate))
            port = random.randrange(1024, 65536)
            try:
                if random.random() < 0.5:
                    s = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                    s.connect_ex((address, port))
                    poll.append(s)
                else:
                    with socket.socket(family, socket.SOCK_DGRAM) as s:
                        s.sendto(b"knock", (address, port))
                count("failed")
            except OSError:
                pass
            while len(poll) > 50:
                s = poll.pop(0)
                try:
                    s.getpeername()
                    count("corrupt")
                except OSError:
                    pass
                s.close()

    threading.Thread(target=knock, daemon=True).start()


signal.signal(signal.SIGTERM, lambda *_: (print(json.dumps(COUNTS), flush=True), os._exit(0)))
role, rest = sys.argv[1], sys.argv[2:]
SOURCES = []
while rest and rest[-1].startswith("from="):
    SOURCES.append(rest.pop()[5:])
threading.Thread(target=tell, daemon=True).start()
if role == "serve":
    serve()
elif role == "short":
    short(rest[0], int(rest[1]), float(rest[2]))
elif role == "bulk":
    bulk(rest[0], int(rest[1]), float(rest[2]))
elif role == "datagrams":
    datagrams(rest[0], int(rest[1]), float(rest[2]))
elif role == "pages":
    pages(rest[0], int(rest[1]), float(rest[2]))
elif role == "scan":
    scan(rest[0], float(rest[1]))
else:
    sys.exit("no such role")
while True:
    signal.pause()
