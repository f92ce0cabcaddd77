"""Another form for the requests of compose services: the same GPUs, neither more nor fewer, and no other byte of the files.

Form by form (systems that each serves: docs/findings/GM905.md). What is asked by one service only is edited where it stands; what
several share by an anchor, where all of them get the same. The result is read again as Compose reads it: where it does not say
the same of every service, nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import yaml

from gpumend.rules.compose.where import COMPOSE_CDI, Where
from gpumend.rules.engines.docker_config import CDI_BY_DEFAULT
from gpumend.state.compose_files import Project, Service, environment
from gpumend.state.compose_request import (
    DRIVER_CAPABILITIES,
    KIND,
    RESERVATIONS,
    VISIBLE,
    Request,
    Visible,
    grant,
    requested,
    requests,
    visible,
)
from gpumend.text.edits import EditError
from gpumend.text.edits.yaml_text import Editor, offset_of_lists
from gpumend.text.record import Record
from gpumend.text.version import show
from gpumend.text.yaml_nodes import OVERRIDE, Value

DEVICES, RUNTIME, RESERVATION = "devices", "runtime", "reservation"
FORMS = (DEVICES, RUNTIME, RESERVATION)
UUIDS = ("GPU-", "MIG-")


class Refusal(Record):
    """A service whose request stays as it is, and why."""

    service: str
    place: str
    why: str


class Rewrite(Record):
    """texts: the new bytes of each file that changes. changed: the services that ask in another form. shared: places that
    several services have by an anchor, with the services. edits: of each file (start, end, text), as gpumend/text/edits/yaml_text.py
    has them."""

    texts: Mapping[str, bytes] = {}
    changed: tuple[str, ...] = ()
    refused: tuple[Refusal, ...] = ()
    shared: tuple[tuple[str, tuple[str, ...]], ...] = ()
    edits: Mapping[str, tuple[tuple[int, int, str], ...]] = {}


class Refused(Exception):
    """Services that cannot be rewritten together."""

    def __init__(self, why: str, services: Iterable[str], place: str = "") -> None:
        super().__init__(why)
        self.services = frozenset(services)
        self.place = place


def form_for(where: Where) -> str:
    """The form that this host serves, best first: CDI devices from Docker 28.2 and Compose 2.30 on, else the runtime."""
    cdi = where.loads_cdi and where.docker is not None and where.docker >= CDI_BY_DEFAULT
    return DEVICES if cdi and where.compose is not None and where.compose >= COMPOSE_CDI else RUNTIME


def form_of(request: Request) -> str:
    if request.way == "runtime":
        return RUNTIME
    return DEVICES if request.cdi else RESERVATION


def rewrite(found: Project, opener: Callable[[str], bytes], form: str, where: Where) -> Rewrite:
    """The project with every request in this form, as far as that can be done without another grant."""
    # What is wrong, and a file that could not be read: the rest of the project may be what it is not.
    wrong = [problem for problem in found.problems if problem.wrong or problem.path in found.given]
    if wrong:
        first = wrong[0]
        return Rewrite(refused=(Refusal("", f"{first.path}:{first.line}", first.text),))
    refused: list[Refusal] = []
    waiting: dict[str, Service] = {}
    for name, service in found.services.items():
        due = [each for each in requests(service) if _due(each, form)]
        if not due:
            continue
        if why := _against(service, due, form, where):
            refused.append(Refusal(name, due[0].place, why))
        else:
            waiting[name] = service
    while waiting:
        try:
            made = _Rewriting(found, waiting, form)
            texts = made.texts()
            _verify(found, texts, opener, waiting, form)
            edits = {
                path: tuple(
                    (start, end, text) for (start, end), text in sorted(made.editors[path].edits.items())
                )
                for path in texts
            }
            return Rewrite(texts, tuple(waiting), tuple(refused), tuple(made.shared()), edits)
        except Refused as error:
            out = (error.services & set(waiting)) or frozenset(waiting)
            for name in sorted(out):
                place = error.place or requests(waiting[name])[0].place
                refused.append(Refusal(name, place, str(error)))
                del waiting[name]
    return Rewrite(refused=tuple(refused))


def _due(request: Request, form: str) -> bool:
    """Whether a request is in another form, or in this one and lost on the way."""
    if request.way == "node":
        return False
    return form_of(request) != form or request.broken


def _against(service: Service, due: list[Request], form: str, where: Where) -> str:
    """Why this service's requests are not rewritten; empty where they may be."""
    for request in due:
        if request.variables:
            return f"it asks by ${{{request.variables[0]}}}: only what the file itself says is rewritten"
        if request.faults:
            return f"Compose refuses it: {request.faults[0]}"
        if request.options:
            return "it has options, which no other form has"
        if request.driver == "nvidia.runtime-hook":
            return "it names the hook's driver, which no other form is"
    seen = visible(service, VISIBLE)
    given = grant(service)
    if given.unknown:
        return f"which GPUs it is given is not known: {given.unknown}"
    several = [each for each in requests(service) if each.way in ("reservation", "gpus") and not each.cdi]
    if len(several) > 1 and where.by_hook is not False:
        return (
            "it makes several requests: Docker before 29.2 gives the last one, later ones all of them (GM908)"
        )
    beside = requested(service)
    if beside is not None and beside.devices != given.devices and where.by_hook is not False:
        return f"it asks for {beside.shown} beside the runtime, which would give {given.shown}: Docker before 29.2 gives the first"
    if form == DEVICES:
        if where.loads_cdi is False:
            return f"{where.docker_text} does not load CDI specs"
        if where.compose is not None and where.compose < COMPOSE_CDI:
            return f"Compose {show(where.compose)} knows no CDI names under `devices:`; `--to runtime` works"
        unnamed = [
            name
            for name in _ids(due, seen)
            if name not in (where.names or ()) and (where.names or name.startswith(UUIDS))
        ]
        if unnamed:
            return f"no CDI spec is known to define {', '.join(unnamed)}; `--for` a report of `gpumend facts` says what there is"
    if any(each.way == "runtime" for each in due) and not seen.literal:
        return f"{VISIBLE} is not said in the file itself"
    if form == RUNTIME:
        runtime = service.value.get("runtime")
        if runtime is not None and not runtime.text.startswith("nvidia"):
            return f"it has runtime {runtime.text!r}"
        if seen.value is not None and not seen.literal:
            return f"{VISIBLE} is a variable's: only what the file itself says is rewritten"
    if form == RESERVATION and (where.by_hook is not False and where.refuses(where.mode)):
        return f"the hook refuses in mode {where.mode!r}"
    return ""


def _ids(due: Iterable[Request], seen: Visible) -> tuple[str, ...]:
    """The devices by name, in the order of the requests."""
    names: list[str] = []
    for request in due:
        if request.ids:
            names += request.ids
        elif request.count is not None and request.count > 0:
            names += map(str, range(request.count))
        else:
            names.append("all")
    return ("all",) if "all" in names else tuple(dict.fromkeys(names))


# --- the edits


class _Step(Record):
    """A key on the way to a request: the mapping that it stands in, and what it leads to. alias: by an alias."""

    owner: yaml.MappingNode
    key: yaml.Node
    value: Value
    alias: bool


KEYS = {"reservation": RESERVATIONS, "gpus": ("gpus",), "devices": ("devices",), "runtime": ("runtime",)}


class _Rewriting:
    """The edits of one attempt for these services. users: of each node that asks for a GPU, the services that have it."""

    def __init__(self, found: Project, services: Mapping[str, Service], form: str) -> None:
        self.found = found
        self.services = services
        self.form = form
        self.editors: dict[str, Editor] = {}
        self.users: dict[int, dict[str, Request]] = {}
        self.places: dict[str, set[str]] = {}
        for name, service in found.services.items():
            for request in requests(service):
                self.users.setdefault(id(request.value.node), {})[name] = request

    def texts(self) -> dict[str, bytes]:
        for path, root in self.found.roots.items():
            for name, raw in _raws(root).items():
                # What a later file takes the place of is rewritten, too: where the later one goes on, it would come back.
                own = name in self.services and path in self.found.given
                due = []
                for request in requests(Service("", raw)):
                    users = self.users.get(id(request.value.node), {name: request} if own else {})
                    if set(users) & set(self.services) and _due(request, self.form):
                        self.users[id(request.value.node)] = users
                        due.append(request)
                if due:
                    self._fragment(path, raw, due)
        if self.form == RUNTIME:
            for name, service in self.services.items():
                self._environment(name, service)
        found: dict[str, bytes] = {}
        for path, editor in self.editors.items():
            try:
                text = editor.result()
            except EditError as error:
                raise Refused(str(error), self.services, path) from None
            if text != editor.text:
                found[path] = editor.source.encode(text)
        return found

    def shared(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        yield from ((place, tuple(sorted(users))) for place, users in self.places.items() if len(users) > 1)

    def editor(self, path: str) -> Editor:
        if path not in self.editors:
            self.editors[path] = Editor(self.found.files[path])
        return self.editors[path]

    def alike(self, users: Iterable[str], place: str) -> None:
        """All who have what is edited there are rewritten, too. Raises Refused."""
        found = set(users)
        self.places.setdefault(place, set()).update(found)
        if others := found - set(self.services):
            raise Refused(
                f"{place} is shared with {', '.join(sorted(others))}, which would then differ", found, place
            )

    def _fragment(self, path: str, raw: Value, due: list[Request]) -> None:
        """What one file says of one service: its requests are out, and the new form is in their place."""
        editor, place = self.editor(path), f"{path}:{due[0].value.line}"
        users: dict[str, list[Request]] = {}
        for request in due:
            found = self.users[id(request.value.node)]
            self.alike(found, f"{path}:{request.value.line}")
            for name, merged in found.items():
                users.setdefault(name, []).append(merged)
        ids = {_ids(merged, Visible()) for merged in users.values()}
        if len(ids) > 1 and self.form != RUNTIME:
            raise Refused(f"{place} is shared by services that are given different GPUs", users, place)
        try:
            new = _New(editor, self.form, raw, due, min(ids))
            for way in dict.fromkeys(request.way for request in due):
                self._remove(editor, raw, [each for each in due if each.way == way], new)
        except EditError as error:
            raise Refused(str(error), users, place) from None

    def _way(self, raw: Value, keys: Iterable[str]) -> list[_Step]:
        steps: list[_Step] = []
        here = raw
        for key in keys:
            value, node = here.entries[key], here.keys[key]
            steps.append(_Step(here.owners[key], node, value, value.start < int(node.start_mark.index)))
            if steps[-1].alias:
                break
            here = value
        return steps

    def _remove(self, editor: Editor, raw: Value, gone: list[Request], new: _New) -> None:
        """The requests of one way are out of the file, and the new form is in, unless it is already."""
        keys = KEYS[gone[0].way]
        steps, listed = self._way(raw, keys), raw.get(*keys)
        items = listed.items if listed is not None and listed.kind == "seq" else ()
        if gone[0].way == DEVICES and self.form == DEVICES:  # names that lost their colon
            for each in gone:
                flow = bool(listed and listed.flow)
                editor.replace(each.value.node, new_device(each.ids[0], editor, each.value.node, flow))
            return
        if steps[-1].alias and not _only(steps[-1].value, keys[len(steps) :], len(gone)):
            raise EditError("an alias that holds more than the request")
        if len(gone) < len(items):
            for each in gone:
                if listed is None or not isinstance(listed.node, yaml.SequenceNode):
                    raise EditError("a list whose place is not clear")
                editor.remove_item(listed.node, each.value.node)
            new.add(steps[0])
            return
        number = len(steps) - 1
        while (
            number and len(steps[number].owner.value) == 1
        ):  # nothing is left of a mapping that held this alone
            number -= 1
        step = steps[number]
        if number:
            editor.remove_entry(step.owner, step.key)
            new.add(steps[0])
            return
        text = new.text(step, OVERRIDE if listed is not None and listed.tag == OVERRIDE else "")
        if not text and len(step.owner.value) == 1:
            raise EditError("nothing would be left of the mapping that it stands in")
        editor.remove_entry(step.owner, step.key, text)

    # -- NVIDIA_VISIBLE_DEVICES

    def _environment(self, name: str, service: Service) -> None:
        due = [each for each in requests(service) if _due(each, RUNTIME)]
        wanted = {VISIBLE: ",".join(_ids(due, Visible()))}
        words = dict.fromkeys(
            cap for each in due for cap in each.capabilities if cap not in ("gpu", "nvidia")
        )
        if words and not any(each.cdi for each in due):
            wanted[DRIVER_CAPABILITIES] = ",".join(words)
        missing: dict[str, str] = {}
        for variable, text in wanted.items():
            seen = visible(service, variable)
            if seen.value is None:
                missing[variable] = text
            elif seen.text != text:
                self._set(name, seen.value, variable, text)
        if missing:
            self._add(name, due[-1], missing)

    def _set(self, name: str, value: Value, variable: str, text: str) -> None:
        """The variable's value, where it stands, is this."""
        place = f"{value.source.path}:{value.line}"
        users = {
            other
            for other, service in self.found.services.items()
            if (found := environment(service.value.get("environment")).get(variable)) is not None
            and found.node is value.node
        }
        self.alike(users | {name}, place)
        style = str(value.node.style or "") if isinstance(value.node, yaml.ScalarNode) else ""
        listed = value.text.startswith(f"{variable}=")
        quote = style if style in ("'", '"') else "" if listed or text.isalpha() else '"'
        new = f"{variable}={text}" if listed else text
        try:
            if value.start < 0 or style in ("|", ">"):
                raise EditError("a text over several lines")
            self.editor(value.source.path).replace(value.node, f"{quote}{new}{quote}")
        except EditError:
            why = f"{place} is shared by services that are given different GPUs"
            raise Refused(why, users | {name}, place) from None

    def _add(self, name: str, request: Request, missing: Mapping[str, str]) -> None:
        """The variables are in the environment of the service that makes the request, or of what it is merged from."""
        path = request.value.source.path
        raws = _raws(self.found.roots[path])
        having = {
            other: raw
            for other, raw in raws.items()
            if any(each.value.node is request.value.node for each in requests(Service("", raw)))
        }
        if not having:
            raise Refused("where its environment stands is not clear", {name}, request.place)
        raw = having.get(name) or next(iter(having.values()))
        said = raw.get("environment")
        try:
            if said is None:
                self._new_environment(self.editor(path), raw.owners[KEYS[request.way][0]], missing)
                return
            users = {
                other
                for other, each in raws.items()
                if (found := each.get("environment")) is not None and found.node is said.node
            }
            self.alike((users & set(self.found.services)) | {name}, f"{path}:{said.line}")
            self._more_environment(self.editor(path), said, missing)
        except EditError as error:
            raise Refused(str(error), {name}, request.place) from None

    def _new_environment(self, editor: Editor, owner: yaml.MappingNode, missing: Mapping[str, str]) -> None:
        indent = " " * editor.column(owner.value[0][0])
        unit = _unit(editor, owner)
        rows = "".join(f'{indent}{unit}{name}: "{text}"{editor.newline}' for name, text in missing.items())
        flow = ", ".join(f'{name}: "{text}"' for name, text in missing.items())
        block = f"{indent}environment:{editor.newline}{rows}"
        runtime = "runtime: nvidia" if owner.flow_style else f"{indent}runtime: nvidia{editor.newline}"
        added = f"{runtime}, environment: {{{flow}}}" if owner.flow_style else runtime + block
        if not editor.extend(owner, runtime, added):
            editor.add_entry(owner, block, f"environment: {{{flow}}}")

    def _more_environment(self, editor: Editor, said: Value, missing: Mapping[str, str]) -> None:
        node = said.node
        if isinstance(node, yaml.MappingNode) and node.value:
            indent = " " * editor.column(node.value[0][0])
            rows = "".join(f'{indent}{name}: "{text}"{editor.newline}' for name, text in missing.items())
            editor.add_entry(node, rows, ", ".join(f'{name}: "{text}"' for name, text in missing.items()))
        elif isinstance(node, yaml.SequenceNode) and node.value:
            style = str(node.value[0].style or "") if isinstance(node.value[0], yaml.ScalarNode) else ""
            quote = style if style in ("'", '"') else ""
            if node.flow_style and not quote and any("," in text for text in missing.values()):
                quote = '"'
            items = [f"{quote}{name}={text}{quote}" for name, text in missing.items()]
            indent = " " * editor.column(node)
            block = "".join(f"{indent}- {item}{editor.newline}" for item in items)
            editor.add_item(node, block, ", ".join(items))
        else:
            raise EditError("an empty `environment:`")


def _only(value: Value, keys: Iterable[str], items: int) -> bool:
    """Whether a mapping holds nothing but what lies on this way, and the list at its end no more than so many items."""
    here: Value = value
    for key in keys:
        if set(here.entries) != {key}:
            return False
        here = here.entries[key]
    return here.kind != "seq" or len(here.items) == items


def _raws(root: Value) -> dict[str, Value]:
    """The services of one file as it says them, merge keys resolved."""
    listed = root.get("services")
    return {name: value for name, value in (listed.entries if listed else {}).items() if value.kind == "map"}


def _unit(editor: Editor, owner: yaml.MappingNode) -> str:
    """One level of indentation below this mapping, as its own entries have it; else as it stands below the margin."""
    column = editor.column(owner.value[0][0])
    for key, value in owner.value:
        if isinstance(value, yaml.MappingNode) and not value.flow_style and value.value:
            step = editor.column(value.value[0][0]) - column
            if step > 0 and value.start_mark.index > key.start_mark.index:
                return " " * step
    return " " * (column // 2 if column in (4, 8) else 2)


def new_device(name: str, editor: Editor, node: yaml.Node, flow: bool) -> str:
    """An item of `devices:`: in the long form where the name has a colon, which Compose would take for a path's."""
    full = f"{KIND}{name}"
    if ":" not in name:
        return full
    if flow:
        return f'{{source: "{full}", target: "{full}"}}'
    indent = " " * editor.column(node)
    return f"source: {full}{editor.newline}{indent}target: {full}"


class _New:
    """The new form of a service's requests, put where the first of them goes out."""

    def __init__(
        self, editor: Editor, form: str, raw: Value, due: list[Request], ids: tuple[str, ...]
    ) -> None:
        self.editor, self.form, self.raw, self.due, self.ids = editor, form, raw, due, ids
        self.done = False
        first = raw.entries[KEYS[due[0].way][0]]
        self.offset = offset_of_lists([first.node, raw.node])

    def own(self, step: _Step, key: str) -> Value | None:
        """What stands under this key in the same mapping already."""
        return self.raw.get(key) if self.raw.owners.get(key) is step.owner else None

    def text(self, step: _Step, tag: str = "") -> str:
        """Whole lines, or a flow mapping's text; empty where it is in already, or was put into what there is."""
        if self.done:
            return ""
        self.done = True
        owner, newline, mark = step.owner, self.editor.newline, f" {tag}" if tag else ""
        indent = " " * self.editor.column(owner.value[0][0])
        if self.form == RUNTIME:
            if self.raw.get("runtime") is not None:
                return ""
            return "runtime: nvidia" if owner.flow_style else f"{indent}runtime: nvidia{newline}"
        if self.form == RESERVATION:
            return self.reservation(owner, mark)
        if (there := self.own(step, "devices")) is not None:
            if mark:
                raise EditError("`devices:` is there already, and the request has `!override`")
            self.items(there)
            return ""
        if owner.flow_style:
            return f"devices:{mark} [{', '.join(self.flow_items(step))}]"
        return f"{indent}devices:{mark}{newline}{''.join(self.block_items(len(indent) + self.offset))}"

    def add(self, step: _Step) -> None:
        """The new form is in the mapping, after all that it has."""
        if text := self.text(step):
            self.editor.add_entry(step.owner, text, text)

    def flow_items(self, step: _Step) -> list[str]:
        return [new_device(name, self.editor, step.owner, True) for name in self.ids]

    def block_items(self, column: int) -> list[str]:
        rows = []
        for name in self.ids:
            text = f"{KIND}{name}"
            if ":" in name:
                text = f"source: {text}{self.editor.newline}{' ' * column}  target: {text}"
            rows.append(f"{' ' * column}- {text}{self.editor.newline}")
        return rows

    def items(self, there: Value) -> None:
        """More items in the list of devices that there is."""
        if there.kind != "seq" or there.shared or not isinstance(there.node, yaml.SequenceNode):
            raise EditError("`devices:` is there already, and is not a list of the service's own")
        block = "".join(self.block_items(self.editor.column(there.node)))
        self.editor.add_item(
            there.node, block, ", ".join(new_device(n, self.editor, there.node, True) for n in self.ids)
        )

    def reservation(self, owner: yaml.MappingNode, tag: str) -> str:
        named = ", ".join(f'"{name}"' for name in self.ids)
        inner = "count: all" if self.ids == ("all",) else f"device_ids: [{named}]"
        flow = f"{{driver: nvidia, {inner}, capabilities: [gpu]}}"
        if self.raw.get("deploy") is not None:
            raise EditError("it has a `deploy:` already: put the reservation in by hand")
        if owner.flow_style:
            return f"deploy: {{resources: {{reservations: {{devices:{tag} [{flow}]}}}}}}"
        unit, newline = _unit(self.editor, owner), self.editor.newline
        at = " " * self.editor.column(owner.value[0][0])
        rows = ["deploy:", "resources:", "reservations:", f"devices:{tag}"]
        text = "".join(f"{at}{unit * depth}{row}{newline}" for depth, row in enumerate(rows))
        dash = f"{at}{unit * 3}{' ' * self.offset}"
        return (
            text
            + f"{dash}- driver: nvidia{newline}{dash}  {inner}{newline}{dash}  capabilities: [gpu]{newline}"
        )


# --- what the new texts say


def _verify(
    found: Project,
    texts: Mapping[str, bytes],
    opener: Callable[[str], bytes],
    changed: Iterable[str],
    form: str,
) -> None:
    """Raises Refused where the new texts do not say the same of every service, but for the form of these."""
    again = found.again(lambda path: texts[path] if path in texts else opener(path))
    names = set(changed)
    wrong = [problem for problem in again.problems if problem not in found.problems and problem.wrong]
    if wrong:
        raise Refused(
            f"the result could not be read: {wrong[0].text}", names, f"{wrong[0].path}:{wrong[0].line}"
        )
    if list(again.services) != list(found.services):
        raise Refused("the result would not have the same services", names)
    for name, service in found.services.items():
        new = again.services[name]
        before, after = grant(service), grant(new)
        if (before.devices, bool(before.unknown)) != (after.devices, bool(after.unknown)):
            raise Refused(
                f"{name} would be given {after.unknown or after.shown} instead of {before.unknown or before.shown}",
                names,
            )
        if name not in names and visible(service, VISIBLE).text != visible(new, VISIBLE).text:
            raise Refused(f"{name} would see {VISIBLE} as well", names)
        if _plain(service.value, True) != _plain(new.value, True):
            raise Refused(f"something else of {name} would change", names)
        if name in names and any(_due(each, form) for each in requests(new)):
            raise Refused("the new form is not what Compose would make of it", {name})


GPU_KEYS = ("gpus", "devices", "runtime")


def _plain(value: Value, top: bool = False) -> object:
    """A service without what asks for GPUs, as data to compare."""
    if value.kind == "scalar":
        return value.text
    if value.kind == "seq":
        return [_plain(item) for item in value.items]
    found: dict[str, object] = {}
    for key, inner in value.entries.items():
        if top and key == "environment":
            variables = {
                n: _plain(v) for n, v in environment(inner).items() if n not in (VISIBLE, DRIVER_CAPABILITIES)
            }
            if variables:
                found[key] = {n: str(v).removeprefix(f"{n}=") for n, v in variables.items()}
            continue
        if top and key == "devices":
            rest = [_plain(item) for item in inner.items if "nvidia.com/" not in str(_plain(item))]
            if rest:
                found[key] = rest
            continue
        if top and key in GPU_KEYS:
            continue
        found[key] = _pruned(inner, RESERVATIONS[1:]) if top and key == "deploy" else _plain(inner)
        if found[key] in ({}, None):
            del found[key]
    return found


def _pruned(value: Value, way: tuple[str, ...]) -> object:
    """deploy without NVIDIA's reservations, and without mappings that hold nothing else."""
    if value.kind != "map":
        return _plain(value)
    found: dict[str, object] = {}
    for key, inner in value.entries.items():
        if key != way[0]:
            found[key] = _plain(inner)
        elif len(way) > 1:
            found[key] = _pruned(inner, way[1:])
        elif rest := [
            _plain(item)
            for item in inner.items
            if "gpu" not in str(_plain(item)) and "nvidia" not in str(_plain(item))
        ]:
            found[key] = rest
        if found.get(key) in ({}, None):
            found.pop(key, None)
    return found
