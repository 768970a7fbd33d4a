import shutil, time, datetime
import pytest
from .test_broker_cluster import *
def test_frozen(shop):
    node = shop.cluster.busiest()
    print("freezing", node.name, node.port, datetime.datetime.now(datetime.UTC))
    began = time.monotonic()
    node.freeze()
    try:
        print("took", shop.serves_after(began), datetime.datetime.now(datetime.UTC))
    finally:
        for name in shop.system.running:
            shutil.copy(shop.system.log(name), f"/tmp/w/dbg-{name}.log")
        for n in shop.cluster.nodes:
            shutil.copy(n.log, f"/tmp/w/dbg-{n.name}.log")
        node.thaw()
