"""``python -m lab cluster``: from nothing to a cluster that collects from real exporters."""

from __future__ import annotations

import json
import os
import sys
import time

import click

from lab import ansible, exporters, machine
from lab.machine import Machine, progress
from lab.shell import LabError

SECRETS = "/var/lib/tandem-lab.secrets"
INVENTORIES = {2: ansible.INVENTORY, 3: "inventory/lab-three"}
FLOW_SECONDS = 60.0
"""How long exporters may take until the first flow record can be queried."""

NEXT = """
The API answers at every VIP and node: https://10.77.0.101:8443

  curl --cacert {secrets}/pki/cluster-ca.pem -H "Authorization: Bearer $(cat {secrets}/token)" \\
       https://10.77.0.101:8443/v1/cluster

Next, try

  lab='{python} -m lab'
  $lab exec n1 -- tandem status --watch      # who holds which VIP
  $lab exec n1 -- tandem top --last 5m       # what the exporters report
  $lab exec n1 -- tandem ledger              # and what became of each datagram
  $lab exec n1 -- tandem drain n1            # a planned move, which loses nothing; --undo
  $lab kill n2                               # a death; $lab start n2 brings it back
  {python} -m measure event node-kill        # the same under load, judged
  make cluster-down                          # leaves nothing behind
"""


def make(nodes: int, suite: str, profile: str) -> None:
    """Machines, site, exporters; raises LabError with nothing left behind."""
    began = time.monotonic()
    inventory = INVENTORIES[nodes]
    try:
        _play(inventory, "lab.yml", profile, "-e", f"lab_suite={suite}")
        _play(inventory, "site.yml", profile)
        progress("real exporters: softflowd and pmacctd, on iperf3's traffic")
        exporters.start()
        _wait_for_flows()
    except BaseException:
        progress("that failed; removing what was made")
        _play(inventory, "lab.yml", profile, "-e", "lab_state=absent")
        raise
    took = time.monotonic() - began
    click.echo(Machine("n1").call("tandem", "status", check=False))
    click.echo(f"The cluster collects, {took:.0f} s after the start.")
    click.echo(NEXT.format(secrets=SECRETS, python=os.path.relpath(sys.executable)))


def _play(inventory: str, playbook: str, profile: str, *words: str) -> None:
    """Run a playbook; what it changes is seen as it happens."""
    progress(f"ansible-playbook -i {inventory} playbooks/{playbook} {' '.join(words)}".rstrip())
    if ansible.play(inventory, playbook, *words, TANDEM_PROFILE=profile):
        raise LabError(f"playbooks/{playbook} failed: see above")


def _wait_for_flows() -> None:
    """Until both VIPs' holders have stored what exporters say."""
    progress("waiting for the first flow records")
    deadline = time.monotonic() + FLOW_SECONDS
    query = ("tandem", "sql", "--json", "SELECT count(*) AS flows FROM flows")
    while time.monotonic() < deadline:
        for node in machine.existing():
            said = node.call(*query, check=False)
            if said and json.loads(said)["flows"]:
                return
        time.sleep(0.5)
    raise LabError(f"no flow record was stored within {FLOW_SECONDS:g} s")
