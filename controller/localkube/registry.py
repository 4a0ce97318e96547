"""The operations of the API on stored objects: create, read, update, patch, delete. One call is one atomic step."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from controller.localkube import admission, core, crds, events, failures, kinds, meta, ownership, patch, schema
from controller.localkube.admission import Options
from controller.localkube.formats import date_time
from controller.localkube.kinds import Kind, Kinds
from controller.localkube.ownership import Writer
from controller.localkube.selectors import Selector
from controller.localkube.store import Object, Resource, Store, key_of
from controller.localkube.values import same

PERMANENT_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"


@dataclass(frozen=True)
class Written:
    object: Object
    created: bool = False
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class DeleteOptions:
    dry_run: bool = False
    propagation: str = "Background"
    uid: str | None = None
    resource_version: str | None = None


class Registry:
    def __init__(self, store: Store, served: Kinds, now: datetime) -> None:
        self.store = store
        self.kinds = served
        self._events_swept = now
        self._system = Options(manager="localkube")
        namespaces = served.of(("", "namespaces"))
        for crd in store.objects(crds.RESOURCE):
            served.replace((), kinds.from_crd(crd))
        for name in PERMANENT_NAMESPACES:
            if store.get(("", "namespaces"), ("", name)) is None:
                namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
                self.create(namespaces, "", namespace, self._system, now)
        for left in store.objects(namespaces.resource):
            self._finish_namespace(left["metadata"]["name"])

    def install(self, crd: Object, now: datetime) -> None:
        """Creates the CustomResourceDefinition, or brings it up to date. Raises Failure 422 if it cannot be served."""
        kind = self.kinds.of(crds.RESOURCE)
        old = self.store.get(kind.resource, ("", crd["metadata"]["name"]))
        if old is None:
            self.create(kind, "", crd, self._system, now)
        else:
            wanted = {**old, "spec": crd["spec"]}
            self.update(kind, "", crd["metadata"]["name"], wanted, self._system, now)

    def get(self, kind: Kind, namespace: str, name: str) -> Object:
        """Raises Failure 404."""
        return events.from_storage(kind, self._stored(kind, namespace, name))

    def select(self, kind: Kind, namespace: str | None, selects: Selector, version: int | None = None) -> list[Object]:
        """Of all namespaces if None. Raises Failure 410 for a version that is too old."""
        shown = (events.from_storage(kind, obj) for obj in self.store.objects(kind.resource, namespace, version))
        return [obj for obj in shown if selects(obj)]

    def _stored(self, kind: Kind, namespace: str, name: str) -> Object:
        obj = self.store.get(kind.resource, (namespace, name))
        if obj is None:
            raise failures.not_found(kind.group, kind.plural, name)
        return obj

    def create(self, kind: Kind, namespace: str, obj: Object, options: Options, now: datetime) -> Written:
        """Raises Failure 400, 403, 404 (no such namespace), 409 or 422."""
        admission.check_type(kind, obj)
        if kind.namespaced:
            self._check_namespace(kind, namespace, obj)
        admitted = admission.creation(kind, namespace, self._completed(kind, obj), options, now)
        new = events.to_storage(kind, admitted.object)
        name = new["metadata"]["name"]
        existing = self.store.get(kind.resource, (namespace, name))
        if existing:
            gone = "deletionTimestamp" in existing["metadata"]
            raise failures.already_exists(kind.group, kind.plural, name, being_deleted=gone)
        if kind.resource == crds.RESOURCE:
            self._serve(new, None, options)
            new = crds.established(new, now)
        if not options.dry_run:
            new = self.store.put(kind.resource, new)
            if kind.plural == "events":
                self._forget_old_events(now)
        return Written(events.from_storage(kind, new), created=True, warnings=admitted.warnings)

    def _completed(self, kind: Kind, obj: Object) -> Object:
        """With what the server itself puts into a kind's objects."""
        if kind.plural == "namespaces":
            return {**obj, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}
        if kind.plural == "secrets":
            return core.with_encoded_text(obj)
        return obj

    def _check_namespace(self, kind: Kind, namespace: str, obj: Object) -> None:
        found = self.store.get(("", "namespaces"), ("", namespace))
        if found is None:
            raise failures.not_found("", "namespaces", namespace)
        if "deletionTimestamp" in found["metadata"]:
            name = (obj.get("metadata") or {}).get("name", "")
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise failures.forbidden(kind.group, kind.plural, name, why)

    def _serve(self, new: Object | None, old: Object | None, options: Options) -> None:
        """Brings the served kinds in line with a CRD that came, changed or went."""
        added = kinds.from_crd(new) if new else []
        if not options.dry_run:
            self.kinds.replace(kinds.from_crd(old) if old else (), added)

    def update(self, kind: Kind, namespace: str, name: str, obj: Object, options: Options, now: datetime) -> Written:
        """Replaces an object. Raises Failure 400, 404, 409 or 422."""
        admission.check_type(kind, obj)
        metadata = obj.get("metadata") or {}
        _check_name(metadata, name)
        if metadata.get("namespace", namespace) != namespace:
            raise failures.bad_request(
                "the namespace of the provided object does not match the namespace sent on the request"
            )
        old = self._stored(kind, namespace, name)
        if kind.custom and not metadata.get("resourceVersion"):
            cause = failures.Cause(
                "metadata.resourceVersion", "FieldValueInvalid", "Invalid value: 0: must be specified for an update"
            )
            raise failures.invalid(kind.group, kind.plural, name, [cause])
        uid = metadata.get("uid")
        if uid and uid != old["metadata"]["uid"]:
            why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {old['metadata']['uid']}"
            raise failures.conflict(kind.group, kind.plural, name, why)
        return self._change(kind, old, obj, options, now)

    def patch(
        self, kind: Kind, namespace: str, name: str, media_type: str, body: Any, options: Options, now: datetime
    ) -> Written:
        """Raises Failure 400, 404, 409, 415 or 422."""
        if media_type == APPLY_PATCH:
            return self._apply(kind, namespace, name, body, options, now)
        old = self._stored(kind, namespace, name)
        shown = events.from_storage(kind, old)
        if media_type == JSON_PATCH:
            patched = patch.json_patch(shown, body)
        elif media_type == STRATEGIC_PATCH:
            patched = patch.strategic_patch(shown, body, kind.schema)
        else:
            patched = patch.merge_patch(shown, body)
        if not isinstance(patched, dict):
            raise failures.unprocessable()
        admission.check_type(kind, patched)
        _check_name(patched.get("metadata") or {}, name)
        try:
            return self._change(kind, old, patched, options, now)
        except failures.Failure as failure:
            if failure.code == 400 and "strict decoding error" in str(failure):
                raise admission.strict_patch_failure(
                    patched, "strict" + str(failure).partition("strict")[2]
                ) from failure
            raise

    def _apply(self, kind: Kind, namespace: str, name: str, config: Object, options: Options, now: datetime) -> Written:
        metadata = config.get("metadata") or {}
        if config.get("apiVersion") != kind.api_version or config.get("kind") != kind.kind:
            group, _, version = str(config.get("apiVersion", "")).rpartition("/")
            raise failures.bad_request(f"invalid object type: {group}/{version}, Kind={config.get('kind', '')}")
        admission.check_type(kind, config)
        if metadata.get("managedFields"):
            raise failures.bad_request("metadata.managedFields must be nil")
        _check_name({"name": name, **metadata}, name)
        _, unknown = schema.prune(config, kind.schema)
        if unknown:
            what = f"(/{name}; {kind.api_version}, Kind={kind.kind})"
            raise failures.Failure(
                500, "", f"failed to create typed patch object {what}: .{unknown[0]}: field not declared in schema"
            )
        old = self.store.get(kind.resource, (namespace, name))
        if old is None and (options.subresource or "create" not in kind.verbs):
            raise failures.not_found(kind.group, kind.plural, name)
        if old is None and not metadata.get("name"):
            raise failures.bad_request(
                f"the name of the object ({name} based on URL) was undeterminable: name must be provided"
            )
        if options.subresource:
            config = {field: config[field] for field in ("apiVersion", "kind", "status") if field in config}
        elif kind.has_status:
            config = {field: value for field, value in config.items() if field != "status"}
        shown = None if old is None else events.from_storage(kind, old)
        if (
            old is not None
            and metadata.get("resourceVersion", old["metadata"]["resourceVersion"])
            != old["metadata"]["resourceVersion"]
        ):
            raise failures.modified(kind.group, kind.plural, name)
        writer = Writer(options.manager, "Apply", kind.api_version, options.subresource)
        merged = ownership.apply(shown, config, kind.schema, writer, meta.now_text(now), force=options.force)
        options = replace(options, applied=True)
        if old is None:
            return self.create(kind, namespace, merged, options, now)
        return self._change(kind, old, merged, options, now)

    def _change(self, kind: Kind, old: Object, obj: Object, options: Options, now: datetime) -> Written:
        """Makes `old` into what `obj` says, where this is allowed; the last finalizer's end is the object's."""
        old_meta = old["metadata"]
        version = (obj.get("metadata") or {}).get("resourceVersion") or old_meta["resourceVersion"]
        if version != old_meta["resourceVersion"]:
            raise failures.modified(kind.group, kind.plural, old_meta["name"])
        if kind.plural == "secrets":
            obj = self._completed(kind, obj)
        before = events.from_storage(kind, old)
        admitted = admission.update(kind, before, obj, options, now)
        new = events.to_storage(kind, admitted.object)
        if same(new, old):
            return Written(before, warnings=admitted.warnings)
        if kind.resource == crds.RESOURCE:
            self._serve(new, old, options)
        ended = (
            "deletionTimestamp" in new["metadata"]
            and not new["metadata"].get("finalizers")
            and kind.plural != "namespaces"
        )
        if options.dry_run:
            pass
        elif ended:
            self._remove(kind, new, now)
        else:
            new = self.store.put(kind.resource, new)
            if kind.plural == "namespaces":
                self._finish_namespace(new["metadata"]["name"])
        return Written(events.from_storage(kind, new), warnings=admitted.warnings)

    def delete(self, kind: Kind, namespace: str, name: str, options: DeleteOptions, now: datetime) -> Object:
        """Asks for an object's deletion: a success Status when it is gone, the object while finalizers hold it.

        Raises Failure 403, 404 or 409.
        """
        old = self._stored(kind, namespace, name)
        metadata = old["metadata"]
        if options.uid and options.uid != metadata["uid"]:
            why = f"the UID in the precondition ({options.uid}) does not match the UID in record ({metadata['uid']})."
            raise failures.conflict(
                kind.group, kind.kind, name, f"{why} The object might have been deleted and then recreated"
            )
        if options.resource_version and options.resource_version != metadata["resourceVersion"]:
            why = f"the ResourceVersion in the precondition ({options.resource_version}) does not match the "
            why += f"ResourceVersion in record ({metadata['resourceVersion']}). The object might have been modified"
            raise failures.conflict(kind.group, kind.kind, name, why)
        if kind.plural == "namespaces":
            return self._delete_namespace(kind, old, options, now)
        if metadata.get("finalizers"):
            if "deletionTimestamp" in metadata:
                return events.from_storage(kind, old)
            marked = {**metadata, "deletionTimestamp": meta.now_text(now), "deletionGracePeriodSeconds": 0}
            if "generation" in metadata:
                marked["generation"] = metadata["generation"] + 1
            new = {**old, "metadata": marked}
            return events.from_storage(kind, new if options.dry_run else self.store.put(kind.resource, new))
        if not options.dry_run:
            if kind.resource == crds.RESOURCE:
                self._delete_custom_objects(old, now)
            self._remove(kind, old, now, orphan=options.propagation == "Orphan")
        details = {
            "name": name,
            **({"group": kind.group} if kind.group else {}),
            "kind": kind.plural,
            "uid": metadata["uid"],
        }
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    def delete_all(
        self, kind: Kind, namespace: str | None, selects: Selector, options: DeleteOptions, now: datetime
    ) -> list[Object]:
        """Deletes each selected object; returns them as they were."""
        objects = self.select(kind, namespace, selects)
        for key in map(key_of, objects):
            if self.store.get(kind.resource, key):  # it may have gone with its owner
                self.delete(kind, *key, options, now)
        return objects

    def _delete_namespace(self, kind: Kind, old: Object, options: DeleteOptions, now: datetime) -> Object:
        name = old["metadata"]["name"]
        if name in PERMANENT_NAMESPACES:
            raise failures.forbidden("", "namespaces", name, "this namespace may not be deleted")
        new = old
        if "deletionTimestamp" not in old["metadata"]:
            marked = {**old["metadata"], "deletionTimestamp": meta.now_text(now)}
            new = {**old, "metadata": marked, "status": {**old.get("status", {}), "phase": "Terminating"}}
        if options.dry_run:
            return new
        if new is not old:
            new = self.store.put(kind.resource, new)
        for resource in self.store.resources():
            held = self.kinds.serving(resource)
            if held and held.namespaced:
                self.delete_all(held, name, lambda obj: True, DeleteOptions(), now)
        self._finish_namespace(name)
        return new

    def _finish_namespace(self, name: str) -> None:
        """Removes a namespace whose deletion was asked for, once nothing is left in it."""
        namespace = self.store.get(("", "namespaces"), ("", name))
        if namespace is None or "deletionTimestamp" not in namespace["metadata"]:
            return
        if namespace["metadata"].get("finalizers"):
            return
        if not any(self.store.objects(resource, name) for resource in self.store.resources()):
            self.store.remove(("", "namespaces"), namespace)

    def _delete_custom_objects(self, crd: Object, now: datetime) -> None:
        """Deletes a CRD's objects for good: nobody could take their finalizers off once the kind is gone."""
        served = kinds.from_crd(crd)
        if served:
            for obj in self.store.objects(served[0].resource):
                self._remove(served[0], obj, now)
        self.kinds.replace(served, ())

    def _remove(self, kind: Kind, obj: Object, now: datetime, *, orphan: bool = False) -> None:
        """Removes an object and what depends on it alone."""
        self.store.remove(kind.resource, obj)
        uid, namespace = obj["metadata"]["uid"], obj["metadata"].get("namespace", "")
        for resource, key in self.store.owned_by(uid, namespace or None):
            dependent = self.store.get(resource, key)  # it may have gone with the others
            if dependent:
                self._disown(resource, dependent, uid, now, orphan=orphan)
        if namespace:
            self._finish_namespace(namespace)

    def _disown(self, resource: Resource, dependent: Object, uid: str, now: datetime, *, orphan: bool) -> None:
        metadata = dependent["metadata"]
        remaining = [owner for owner in metadata["ownerReferences"] if owner["uid"] != uid]
        kind = self.kinds.serving(resource)
        if kind and not remaining and not orphan:
            self.delete(kind, *key_of(dependent), DeleteOptions(), now)
        else:
            self.store.put(resource, {**dependent, "metadata": {**metadata, "ownerReferences": remaining}})

    def _forget_old_events(self, now: datetime) -> None:
        """So that events do not pile up; at most once a minute, because it looks at each."""
        if now - self._events_swept < timedelta(minutes=1):
            return
        self._events_swept = now
        oldest = now - timedelta(seconds=events.LIFETIME_SECONDS)
        for event in self.store.objects(("", "events")):
            if date_time(event["metadata"]["creationTimestamp"]) < oldest:
                self.store.remove(("", "events"), event)


def _check_name(metadata: Object, name: str) -> None:
    if metadata.get("name", "") != name:
        raise failures.bad_request(
            f"the name of the object ({metadata.get('name', '')}) does not match the name on the URL ({name})"
        )
