"""Bridges from message brokers to a running server: `carryover connect`.

    source.py         what a broker must offer, and the values that pass between it and the bridge
    bridge.py         the loop: receive, send chunks, publish, acknowledge
    lane.py           one session of the bridge: where its next chunk begins, and what a refusal means
    values.py         numbers out of a message, by the names of the model's inputs
    names.py          session ids and topics from templates
    mqtt.py           MQTT, QoS 1
    journal.py        a file of what was sent last, for brokers that keep nothing but messages
    redis_streams.py  Redis Streams

The bridge is a client of the server: it knows only the package `carryover`.
"""
