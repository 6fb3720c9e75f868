"""What runs on each compute node.

- `task`: where it begins; `context`: what it knows of its job; `preflight`, `checks`, `place_check`, `probe`: the node
  is examined before training
- `supervise`, `watch`: training processes are started and watched; `rendezvous`, `scratch`: where they meet and write
- `conclude`: how a start ended, and what follows from it
"""
