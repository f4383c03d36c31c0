"""A double of i2rt, written from what version 1.2.4 does, its failures included."""
