"""What a server may open."""

import ipaddress
import re
import socket

import pytest

from trainer.cluster import server
from trainer.cluster.spec import Cluster
from trainer.errors import TrainerError, UsageError
from trainer.tf1 import tf


def start(address, **settings):
    cluster = Cluster("worker", 0, {0: address, 1: "127.0.0.1:9"}, {}, "the flags")
    return server.start_server(cluster, tf.ConfigProto(), print, **{"network_is_isolated": False, **settings})


def test_a_public_address_is_refused(monkeypatch):
    monkeypatch.setattr(server, "own_addresses", lambda: [ipaddress.ip_address("8.8.8.8")])
    with pytest.raises(UsageError, match=re.escape("would listen on the public address 8.8.8.8")):
        start("127.0.0.1:2222")


def test_a_port_in_use_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(TrainerError, match=f"worker 0 cannot open its port, {address}: Address already in use"):
            start(address, network_is_isolated=True)


def test_all_addresses_are_found():
    assert ipaddress.ip_address("127.0.0.1") in server.own_addresses()


def test_waiting_ends_with_the_names_of_the_missing():
    said = []
    with pytest.raises(TrainerError, match=r"worker 1 \(127\.0\.0\.1:1\) did not answer for --join_seconds=0\.2"):
        server.wait_for_tasks({"worker 1": "127.0.0.1:1"}, seconds=0.2, say=said.append, check=lambda: None)


def test_waiting_can_be_stopped():
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        server.wait_for_tasks({"worker 1": "127.0.0.1:1"}, seconds=60, say=print, check=stop)
