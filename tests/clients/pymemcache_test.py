"""pymemcache's whole API of the text protocol against the server on the port that is given."""

import sys
import time
import unittest

from pymemcache import Client, MemcacheUnknownCommandError, PooledClient, serde
from pymemcache.client.hash import HashClient
from pymemcache.exceptions import MemcacheClientError, MemcacheIllegalInputError, MemcacheServerError

ADDRESS = ("127.0.0.1", int(sys.argv.pop(1)))


class Api(unittest.TestCase):
    def setUp(self):
        self.client = Client(ADDRESS, timeout=10, connect_timeout=10, default_noreply=False)
        self.client.flush_all()

    def tearDown(self):
        self.client.close()

    def test_set_get_delete(self):
        self.assertTrue(self.client.set("key", "value"))
        self.assertEqual(self.client.get("key"), b"value")
        self.assertTrue(self.client.delete("key"))
        self.assertFalse(self.client.delete("key"))
        self.assertIsNone(self.client.get("key"))
        self.assertEqual(self.client.get("key", "default"), "default")

    def test_many(self):
        values = {f"many{n}": f"value{n}".encode() for n in range(500)}
        self.assertEqual(self.client.set_many(values), [])
        self.assertEqual(self.client.get_many(list(values)), values)
        self.assertEqual(len(self.client.gets_many(list(values))), 500)
        self.assertTrue(self.client.delete_many(list(values)))
        self.assertEqual(self.client.get_many(list(values)), {})

    def test_conditional_stores(self):
        self.assertTrue(self.client.add("a", "1"))
        self.assertFalse(self.client.add("a", "2"))
        self.assertTrue(self.client.replace("a", "3"))
        self.assertFalse(self.client.replace("b", "3"))
        self.assertTrue(self.client.append("a", "4"))
        self.assertTrue(self.client.prepend("a", "2"))
        self.assertEqual(self.client.get("a"), b"234")

    def test_cas(self):
        self.client.set("c", "1")
        value, unique = self.client.gets("c")
        self.assertEqual(value, b"1")
        self.assertTrue(self.client.cas("c", "2", unique))
        self.assertFalse(self.client.cas("c", "3", unique))
        self.assertIsNone(self.client.cas("unknown", "3", unique))

    def test_counters(self):
        self.client.set("n", "10")
        self.assertEqual(self.client.incr("n", 5), 15)
        self.assertEqual(self.client.decr("n", 20), 0)
        self.assertIsNone(self.client.incr("unknown", 1))
        self.client.set("text", "abc")
        with self.assertRaises(MemcacheClientError):
            self.client.incr("text", 1)

    def test_expiry_and_touch(self):
        self.client.set("short", "x", expire=1)
        self.client.set("long", "x", expire=1)
        self.assertTrue(self.client.touch("long", expire=100))
        self.assertFalse(self.client.touch("unknown", expire=100))
        until = time.time() + 10
        while self.client.get("short") is not None and time.time() < until:
            time.sleep(0.05)
        self.assertIsNone(self.client.get("short"))
        self.assertEqual(self.client.get("long"), b"x")

    def test_large_and_too_large(self):
        value = bytes(range(256)) * 4000
        self.assertTrue(self.client.set("large", value))
        self.assertEqual(self.client.get("large"), value)
        with self.assertRaises(MemcacheServerError):
            self.client.set("large", b"x" * (2 << 20))
        self.assertIsNone(self.client.get("large"))

    def test_admin(self):
        self.assertIn(b"flashare", self.client.version())
        self.assertIn(b"curr_items", self.client.stats())
        with self.assertRaises(MemcacheIllegalInputError):
            self.client.get("x" * 251)
        with self.assertRaises(MemcacheUnknownCommandError):
            self.client._misc_cmd([b"bogus\r\n"], b"bogus", False)

    def test_noreply(self):
        self.client.set("q", "1", noreply=True)
        self.client.incr("q", 1, noreply=True)
        self.client.touch("q", 100, noreply=True)
        self.assertEqual(self.client.get("q"), b"2")

    def test_other_clients(self):
        pooled = PooledClient(ADDRESS, max_pool_size=4, serde=serde.pickle_serde, default_noreply=False)
        pooled.set("object", {"a": [1, 2, 3]})
        self.assertEqual(pooled.get("object"), {"a": [1, 2, 3]})
        pooled.close()
        hashed = HashClient([ADDRESS], default_noreply=False)
        hashed.set_many({"h1": "1", "h2": "2"})
        self.assertEqual(hashed.get_many(["h1", "h2"]), {"h1": b"1", "h2": b"2"})
        hashed.close()


if __name__ == "__main__":
    result = unittest.main(exit=False).result
    failed = len(result.failures) + len(result.errors)
    print(f"pymemcache: {result.testsRun - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)
