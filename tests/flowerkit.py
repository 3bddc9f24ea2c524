"""A Flower Grid of nodes that nobody reaches: for strategies that only say what they would send."""

from __future__ import annotations

from central.federation.flower import Grid

__all__ = ["Nodes"]


class Nodes(Grid):
    """Node ids 1 to `many`."""

    def __init__(self, many: int) -> None:
        self._many = many

    def set_run(self, run): ...

    @property
    def run(self): ...

    def create_message(self, content, message_type, dst_node_id, group_id, ttl=None): ...

    def get_node_ids(self):
        return list(range(1, self._many + 1))

    def push_messages(self, messages): ...

    def pull_messages(self, message_ids): ...

    def send_and_receive(self, messages, *, timeout=None): ...
