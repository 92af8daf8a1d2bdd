"""A Google Cloud Storage on this machine with one empty bucket: python tests/bucket.py PORT.

The emulator leaves out what TensorStore asks for: an object's generation with its bytes, and writes that hold only if
the object has (or lacks) a generation.
"""

import sys
import time
from http import HTTPStatus

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

BUCKET = "bucket"
download, insert = objects.download, objects.insert


def generation(storage, bucket, name):
    try:
        return storage.get_file_obj(bucket, name)["generation"]
    except NotFound:
        return "0"


def download_with_generation(request, response, storage, *rest, **more):
    response["x-goog-generation"] = generation(storage, request.params["bucket_name"], request.params["object_id"])
    download(request, response, storage, *rest, **more)


def insert_if(request, response, storage, *rest, **more):
    (wanted,), (name,) = request.query.get("ifGenerationMatch", [None]), request.query.get("name", [""])
    if wanted and name and generation(storage, request.params["bucket_name"], name) != wanted:
        response.status = HTTPStatus.PRECONDITION_FAILED
        return
    insert(request, response, storage, *rest, **more)


objects.download, objects.insert = download_with_generation, insert_if

if __name__ == "__main__":
    from gcp_storage_emulator.server import create_server  # takes the handlers as they are now

    create_server("localhost", int(sys.argv[1]), in_memory=True, default_bucket=BUCKET).start()
    while True:
        time.sleep(1)
