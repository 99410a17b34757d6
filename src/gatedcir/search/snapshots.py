"""The collection of a server's index as one file, out of the server and back.

A snapshot holds the shards of one machine. An index that is spread over several has none.
"""

from pathlib import Path
from typing import Any

from gatedcir.errors import UserError
from gatedcir.files import whole_file
from gatedcir.outputs import check_file_to_write
from gatedcir.search.server import Server, answers, connect, key

_MINUTES = 60  # that the server may take to write or read a snapshot


def save_snapshot(folder: Path, file: Path) -> int:
    """Write the collection of an index to a file, and return its bytes.

    Args:
        folder: of the index's features.
        file: an earlier snapshot is replaced when the new one is whole.

    Raises:
        UserError: the server does not answer, or the collection is spread over several machines.
    """
    import httpx

    check_file_to_write(file, "--save-snapshot", "snapshot")
    place = Server.read(folder)
    with answers(place.url):
        client = connect(place.url, timeout=_MINUTES * 60)
        _check_shards(client, place)
        made = client.create_snapshot(place.collection)
        with whole_file(file, size=made.size) as unfinished:
            address = f"{_collection(client, place)}/snapshots/{made.name}"
            settings: dict[str, Any] = {"headers": key(), "timeout": _MINUTES * 60}
            with (
                httpx.stream("GET", address, **settings) as stream,
                unfinished.open("wb") as target,
            ):
                stream.raise_for_status()
                for part in stream.iter_bytes():
                    target.write(part)
            client.delete_snapshot(place.collection, made.name)
        client.close()
    return file.stat().st_size


def load_snapshot(folder: Path, file: Path) -> None:
    """Make the collection of an index from a file.

    Raises:
        UserError: there is no such file, the server has the collection already, or it does not
            take the file.
    """
    import httpx

    if not file.is_file():
        raise UserError(f"there is no snapshot {file}; check the path.")
    place = Server.read(folder)
    with answers(place.url):
        client = connect(place.url, timeout=_MINUTES * 60)
        if client.collection_exists(place.collection):
            raise UserError(
                f"{place.url} has the collection {place.collection}, which would be overwritten; "
                "delete it there first."
            )
        with file.open("rb") as content:
            httpx.post(
                f"{_collection(client, place)}/snapshots/upload",
                params={"wait": "true", "priority": "snapshot"},
                files={"snapshot": content},
                headers=key(),
                timeout=_MINUTES * 60,
            ).raise_for_status()
        client.close()


def _check_shards(client: Any, place: Server) -> None:
    """UserError if other machines hold parts of the collection."""
    if client.collection_cluster_info(place.collection).remote_shards:
        raise UserError(
            f"the collection {place.collection} is spread over several machines, and a snapshot "
            "holds one machine's part; copy the index with --copy-of."
        )


def _collection(client: Any, place: Server) -> str:
    return f"{client.http.client.host.rstrip('/')}/collections/{place.collection}"
