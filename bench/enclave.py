"""Drive a real enclave process over its channel: orders a second and CPU time an order, beside bare cryptography.

    python bench/enclave.py [--seconds 2] [--threads 2] [--depths 1,8,64] [--suites ~avalon-hpke-1,avalon,eea-1.1]

"bare" is decode, unlock, open, seal, sign and encode of the same orders in one loop of one thread: what no enclave
can go below. It is measured twice: alone, and while a second process does the same ("busy"), because the driver keeps
another core busy while the enclave is measured, and two cores that share their units are slower then. The ratio is
to "busy". CPU time is the enclave process's alone.
"""

import argparse
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time

import psutil

from avalon_core.channel.frames import FrameDecoder, encode_frame
from avalon_core.channel.messages import (
    Configure,
    Done,
    Process,
    Shutdown,
    Started,
    decode_to_host,
    encode_message,
)
from avalon_core.crypto.dialects import WorkerKeys, WorkerPublicKeys
from avalon_core.crypto.orders import Item, OrderDraft, open_order, seal_order, seal_result, unlock
from avalon_core.crypto.sealing import (
    HpkePrivateKey,
    RsaPrivateKey,
    load_hpke_public_key,
    load_rsa_public_key,
)
from avalon_core.crypto.signing import SigningKey
from avalon_core.protocol.ids import worker_id_of, workload_id_of
from avalon_core.protocol.orders import decode_request, encode_request, encode_result
from avalon_core.protocol.workers import decode_details

WORKER = "bench"
ORDERS = 3000
"""Sealed for one row. None is sent twice: the enclave answers a repetition from memory."""


def drafts():
    for _ in range(ORDERS):
        yield OrderDraft(
            work_order_id=os.urandom(32).hex(),
            worker_id=worker_id_of(WORKER),
            workload_id=workload_id_of("echo-result"),
            requester_id="aa" * 32,
            requester_nonce="bb" * 16,
            inputs=[Item(index=0, data=b"twenty-odd bytes of it")],
        )


def sealed(keys, suite):
    return [encode_request(seal_order(draft, keys, suite=suite).request) for draft in drafts()]


def bare(suite, seconds):
    keys = WorkerKeys(rsa=RsaPrivateKey.generate(), hpke=HpkePrivateKey.generate())
    signer = SigningKey.generate()
    orders = sealed(WorkerPublicKeys(rsa=keys.rsa.public_key, hpke=keys.hpke.public_key), suite)
    count, began, cpu = 0, time.monotonic(), time.process_time()
    while time.monotonic() - began < seconds:
        request = decode_request(orders[count % ORDERS])
        opened = open_order(request, unlock(request, keys))
        encode_result(seal_result(opened, [Item(index=0, data=b"RESULT: " + opened.inputs[0].data)], signer))
        count += 1
    return (time.process_time() - cpu) / count * 1e6


def bare_twice(suite, seconds):
    alone = bare(suite, seconds)
    partner = multiprocessing.get_context("spawn").Process(target=bare, args=(suite, 3600.0), daemon=True)
    partner.start()
    time.sleep(1.0)  # for its imports and keys
    busy = bare(suite, seconds)
    partner.kill()
    partner.join()
    return alone, busy


class Enclave:
    def __init__(self, threads):
        self.directory = tempfile.TemporaryDirectory()
        quoting_socket = f"{self.directory.name}/quoting"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
            # The enclave queues there while it starts; it is idle afterwards.
            listening.bind(quoting_socket)
            listening.listen()
            self.quoting = subprocess.Popen(
                [sys.executable, "-m", "avalon_service.quoting", "--listen", f"fd:{listening.fileno()}"],
                pass_fds=[listening.fileno()],
                stderr=subprocess.DEVNULL,
            )
        self.socket, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "avalon_enclave", "--role", "singleton"),
                    *("--platform", "simulated", "--quoting-socket", quoting_socket),
                    *("--measured", "accept_legacy=true", "--channel", f"fd:{theirs.fileno()}"),
                ],
                pass_fds=[theirs.fileno()],
            )
        self.decoder = FrameDecoder()
        began = time.monotonic()
        self.send(Configure(worker_name=WORKER, keys="fresh", accept_legacy=True, threads=threads))
        started = next(message for message in self.receive() if isinstance(message, Started))
        self.start_seconds = time.monotonic() - began
        data = decode_details(started.details).worker_type_data
        self.keys = WorkerPublicKeys(
            rsa=load_rsa_public_key(data.encryption_key),
            hpke=load_hpke_public_key(data.hpke_encryption_key),
        )
        self.usage = psutil.Process(self.process.pid)

    def send(self, message):
        self.socket.sendall(encode_frame(encode_message(message)))

    def receive(self):
        while True:
            data = self.socket.recv(1 << 16)
            if not data:
                raise SystemExit("the enclave ended")
            for payload in self.decoder.feed(data):
                yield decode_to_host(payload)

    def cpu(self):
        times = self.usage.cpu_times()
        return times.user + times.system

    def measure(self, orders, depth, seconds):
        began, cpu, handle, done = time.monotonic(), self.cpu(), 0, 0
        for _ in range(depth):
            self.send(Process(handle=handle, request=orders[handle]))
            handle += 1
        for message in self.receive():
            if not isinstance(message, Done):
                continue
            done += 1
            if handle < len(orders) and time.monotonic() - began < seconds:
                self.send(Process(handle=handle, request=orders[handle]))
                handle += 1
            elif done == handle:
                break
        elapsed = time.monotonic() - began
        return done / elapsed, (self.cpu() - cpu) / done * 1e6


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--depths", default="1,8,64")
    parser.add_argument("--suites", default="~avalon-hpke-1,avalon,eea-1.1")
    arguments = parser.parse_args()
    enclave = Enclave(arguments.threads)
    print(f"{os.cpu_count()} cores, {arguments.threads} threads; started in {enclave.start_seconds:.2f} s")
    print(
        f"{'suite':16} {'depth':>5} {'orders/s':>9} {'CPU us/order':>13} {'bare us':>8} {'busy us':>8} {'ratio':>6}"
    )
    for suite in arguments.suites.split(","):
        for depth in map(int, arguments.depths.split(",")):
            orders = sealed(enclave.keys, suite)
            alone, busy = bare_twice(suite, arguments.seconds / 2)
            rate, cpu = enclave.measure(orders, depth, arguments.seconds)
            print(f"{suite:16} {depth:5} {rate:9.0f} {cpu:13.0f} {alone:8.0f} {busy:8.0f} {cpu / busy:6.2f}")
    enclave.send(Shutdown())
    enclave.process.wait(15)
    enclave.quoting.terminate()
    enclave.quoting.wait(15)
    enclave.directory.cleanup()


if __name__ == "__main__":
    main()
