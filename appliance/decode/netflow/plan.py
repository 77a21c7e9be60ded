"""From a layout to columns: a plan is compiled once a layout and run once a batch.

Which column an element fills is the registry's matter, but for the few that several elements fill
together; those are here, by number (IANA's "IPFIX Information Elements").
"""

from __future__ import annotations

from dataclasses import dataclass

from appliance.columns import Column
from appliance.decode.elements import REVERSE_PEN, Element, Registry, snake_case
from appliance.decode.netflow import steps
from appliance.decode.netflow.layout import VARIABLE, Field, Layout
from appliance.decode.netflow.steps import Run, Step
from appliance.schema import ABSTRACT_TYPES, ADDRESS, EXTRA, column_type

MAX_REPEATS = 16
"""Columns of one element repeated in a template; further ones go into ``extra``."""

COUNTERS: dict[str, tuple[tuple[int, int], ...]] = {
    "bytes": ((0, 1), (0, 85), (0, 231), (0, 23)),
    "packets": ((0, 2), (0, 86), (0, 298), (0, 24)),
    "rev_bytes": ((REVERSE_PEN, 1), (REVERSE_PEN, 85), (0, 232)),
    "rev_packets": ((REVERSE_PEN, 2), (REVERSE_PEN, 86), (0, 299)),
}
"""Elements of a counter, best first."""

PREFIXES = {"src_addr": {44, 170}, "dst_addr": {45, 169}}
"""Prefix elements that stand for an address where the record has none."""

START = (
    (152, "dateTimeMilliseconds"),
    (156, "dateTimeNanoseconds"),
    (154, "dateTimeMicroseconds"),
    (150, "dateTimeSeconds"),
)
END = (
    (153, "dateTimeMilliseconds"),
    (157, "dateTimeNanoseconds"),
    (155, "dateTimeMicroseconds"),
    (151, "dateTimeSeconds"),
)
EVENT = (
    (323, "dateTimeMilliseconds"),
    (325, "dateTimeNanoseconds"),
    (324, "dateTimeMicroseconds"),
    (322, "dateTimeSeconds"),
)
START_DELTA_US, END_DELTA_US = 158, 159
START_UPTIME, END_UPTIME = 22, 21
SYSTEM_INIT_MS = 160
LABEL_STACK = range(70, 80)
IPV6_VARIANTS = {29, 30, 139, 178, 179}
"""Elements for IPv6 that share a column with one for IPv4."""
ICMP6_TYPE_CODE = 139
IP_VERSION = 60
FRAME_SECTION, IP_SECTION = 315, 313
FRAME_SIZE = 312
LISTS = {"basicList", "subTemplateList", "subTemplateMultiList"}


@dataclass(slots=True)
class Plan:
    """The steps of a layout, in order."""

    steps: list[Step]

    def run(self, run: Run) -> None:
        """Fill ``run.out``."""
        for step in self.steps:
            step(run)
        if run.extra:
            run.out.columns["extra"] = Column(steps.extra_map(run.extra, len(run.out)), EXTRA)


class _Compiler:
    """Takes the fields of a layout, each once, and makes steps of them."""

    def __init__(self, layout: Layout, registry: Registry) -> None:
        self.v9 = layout.protocol == 9
        self.registry = registry
        self.steps: list[Step] = []
        self.left: list[Field] = list(layout.fields)
        self.names: dict[str, int] = {}
        self.owners: dict[str, tuple[int, int]] = {}

    def has(self, number: int, pen: int = 0) -> Field | None:
        """The first field of an element that is not taken yet."""
        for f in self.left:
            if f.id == number and f.pen == pen:
                return f
        return None

    def take(self, number: int, pen: int = 0) -> Field | None:
        """Take it."""
        found = self.has(number, pen)
        if found is not None:
            self.left.remove(found)
        return found

    def claim(self, name: str, of: Field) -> None:
        """Column ``name`` is of field ``of``."""
        self.names[name] = 1
        self.owners[name] = (of.pen, of.id)

    def compile(self) -> Plan:
        self.times()
        self.addresses()
        self.counters()
        self.labels()
        self.icmp()
        self.alternatives()
        self.sampling()
        frame = self.frame()
        for f in list(self.left):
            self.plain(f)
        if frame is not None:
            self.steps.append(frame)
        return Plan(self.steps)

    def counters(self) -> None:
        for name, choices in COUNTERS.items():
            for pen, number in choices:
                f = self.take(number, pen)
                if f is None:
                    continue
                self.claim(name, f)
                self.steps.append(steps.unsigned(name, f))
                if pen == 0 and choices[0] == (0, choices[0][1]) and number != choices[0][1]:
                    self.steps.append(steps.constant(f"{name}_element", number))
                break

    def times(self) -> None:
        init = self.has(SYSTEM_INIT_MS)
        for name, absolute, delta, uptime in (
            ("start", START, START_DELTA_US, START_UPTIME),
            ("end", END, END_DELTA_US, END_UPTIME),
        ):
            column = f"{name}_ns"
            for number, abstract in absolute:
                f = self.take(number)
                if f is not None:
                    self.claim(column, f)
                    self.steps.append(steps.time_column(column, f, abstract))
                    break
            since = self.take(uptime)
            if since is not None:
                self.claim(f"{name}_uptime_ms", since)
                self.steps.append(steps.unsigned(f"{name}_uptime_ms", since))
            if column in self.names:
                continue
            before = self.take(delta)
            if before is not None:
                self.claim(column, before)
                self.steps.append(steps.before_export(column, before))
            elif since is not None:
                self.claim(column, since)
                self.steps.append(steps.since_start(name, init))
        for number, abstract in EVENT:
            f = self.take(number)
            if f is not None:
                self.claim("event_ns", f)
                self.steps.append(steps.time_column("event_ns", f, abstract))
                break

    def element(self, f: Field) -> Element | None:
        return self.registry.get(f.pen, f.id, v9=self.v9)

    def addresses(self) -> None:
        """Address columns: of each, the k-th IPv4 and the k-th IPv6 field belong together."""
        pairs: dict[str, tuple[list[Field], list[Field]]] = {}
        for f in self.left:
            element = self.element(f)
            if element is None or f.length == VARIABLE:
                continue
            size = {"ipv4Address": 4, "ipv6Address": 16}.get(element.type)
            if column_type(element.column) == ADDRESS and f.length == size:
                pairs.setdefault(element.column, ([], []))[size == 16].append(f)
        for name, numbers in PREFIXES.items():
            if name not in pairs:
                for f in self.left:
                    if f.pen == 0 and f.id in numbers and f.length <= 16:
                        pairs.setdefault(name, ([], []))[f.id > 100].append(f)
        both = [pairs.get(name, ([], [])) for name in ("src_addr", "dst_addr")]
        if any(v4 and v6 for v4, v6 in both):
            version = self.has(IP_VERSION)
            firsts = [(v4[0] if v4 else None, v6[0] if v6 else None) for v4, v6 in both]
            self.steps.append(steps.choose_family(version, firsts))
        for name, (v4, v6) in pairs.items():
            for k in range(max(len(v4), len(v6))):
                four = v4[k] if k < len(v4) else None
                six = v6[k] if k < len(v6) else None
                some = four or six
                assert some is not None
                column = name if k == 0 else f"{name}_{k + 1}"
                if k >= MAX_REPEATS:
                    break
                for used in (four, six):
                    if used is not None:
                        self.left.remove(used)
                self.claim(column, some)
                if four is None or six is None:
                    self.steps.append(steps.address(column, some))
                else:
                    keep = k == 0 and name in ("src_addr", "dst_addr")
                    self.steps.append(steps.either(column, four, six, keep))

    def alternatives(self) -> None:
        """Columns with one element for IPv4 and another for IPv6, where a record has both."""
        by_column: dict[str, list[Field]] = {}
        for f in self.left:
            element = self.element(f)
            if f.pen == 0 and element is not None:
                by_column.setdefault(element.column, []).append(f)
        for name, found in by_column.items():
            six = next((f for f in found if f.id in IPV6_VARIANTS), None)
            four = next((f for f in found if f.id not in IPV6_VARIANTS), None)
            if six is not None and four is not None:
                self.left.remove(six)
                self.left.remove(four)
                self.claim(name, four)
                self.steps.append(steps.variant(name, four, six))

    def icmp(self) -> None:
        """Type and code out of icmpTypeCodeIPv6, whose own column IPv4's may need."""
        both = self.has(ICMP6_TYPE_CODE)
        if both is not None and not any(self.has(n) for n in (176, 177, 178, 179)):
            self.steps.append(steps.icmp(both))

    def labels(self) -> None:
        stack = [f for n in LABEL_STACK if (f := self.has(n)) is not None and f.length == 3]
        if stack:
            for f in stack:
                self.left.remove(f)
            self.claim("mpls_labels", stack[0])
            self.steps.append(steps.labels(stack))

    def sampling(self) -> None:
        """The rate of a record that says it itself; the fields keep their own columns too."""
        interval = self.has(34) or self.has(50)
        if interval is not None:
            self.steps.append(steps.sampling_interval(interval))
            return
        for one, other in ((305, 306), (309, 310)):
            first, second = self.has(one), self.has(other)
            if first is not None and second is not None:
                self.steps.append(steps.sampling_ratio(first, second, add=one == 305))
                return

    def frame(self) -> Step | None:
        for number, protocol in ((FRAME_SECTION, 1), (IP_SECTION, 0)):
            f = self.has(number)
            if f is not None:
                size = self.take(FRAME_SIZE)
                if size is not None:
                    self.claim("frame_length", size)
                    self.steps.append(steps.unsigned("frame_length", size))
                return steps.frame(f, protocol)
        return None

    def plain(self, f: Field) -> None:
        element = self.element(f)
        key = f.key
        if element is not None and element.type not in LISTS:
            name = self.free_name(f, element)
            if name is not None:
                type_ = column_type(name)
                if type_ is None:
                    type_ = ABSTRACT_TYPES[element.type]
                self.steps.append(steps.plain(name, key, f, element.type, type_))
                return
        if element is not None and element.type in LISTS:
            self.steps.append(steps.list_texts(key, f))
        else:
            self.steps.append(steps.octets(key, f))

    def free_name(self, f: Field, element: Element) -> str | None:
        """A column that no other field of the layout has."""
        name = element.column
        if name in self.owners and self.owners[name] != (f.pen, f.id):
            name = snake_case(element.name)
        if name not in self.owners:
            self.claim(name, f)
            return name
        count = self.names[name] = self.names.get(name, 1) + 1
        if count > MAX_REPEATS:
            return None
        name = f"{name}_{count}"
        self.claim(name, f)
        return name


def compile_plan(layout: Layout, registry: Registry) -> Plan:
    """The plan of a layout of flow records."""
    return _Compiler(layout, registry).compile()
