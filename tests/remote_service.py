"""A small service that speaks NDIF's protocol: a process of its own, in which this library cannot be imported.

It holds the models of a folder by the names of their folders, and unpacks and runs what it is sent by nnsight's means.
Run as ``python remote_service.py FOLDER OWNER``: it tells its port in a line, and wants the key ``right``. Some models
are only names: ``OWNER/wrong`` answers with a pickle that is no tensor.
"""

import asyncio
import json
import sys
from pathlib import Path

# Whatever needs the library here fails, as it would where the library was never installed.
sys.modules["personalib"] = None

import nnsight  # noqa: E402
import torch  # noqa: E402
import tornado  # noqa: E402
import zstandard  # noqa: E402
from nnsight.schema.request import RequestModel  # noqa: E402
from nnsight.schema.response import ResponseModel, Status  # noqa: E402
from nnsight.tracing.tracer import dec, inc  # noqa: E402
from tornado.web import Application, HTTPError, RequestHandler  # noqa: E402
from tornado.websocket import WebSocketHandler  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

SUBSCRIBED, MODELS, KEY = {}, {}, "right"


def hold(folder, owner):
    for path in sorted(folder.iterdir()):
        network = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager").eval()
        tokenizer = AutoTokenizer.from_pretrained(path)
        MODELS[f"{owner}/{path.name}"] = nnsight.TransformersModel(
            network, tokenizer=tokenizer, task="text-generation", dispatch=True
        )


def run(network, blob, compress):
    """The values that a trace saves, as the bytes of torch."""
    tracer = RequestModel.deserialize(blob, network._remoteable_persistent_objects(), compress)
    given = set(tracer.info.frame.f_locals)
    inc()
    try:
        tracer.execute(tracer.info.code)
    finally:
        dec()
    made = {name: value for name, value in tracer.info.frame.f_locals.items() if name not in given}
    return packed(made)


def packed(value):
    path = Path(sys.argv[1]).parent / "result.pt"
    torch.save(value, path, pickle_protocol=4)
    return zstandard.ZstdCompressor().compress(path.read_bytes())


class Subscribe(WebSocketHandler):
    def open(self):
        SUBSCRIBED["one"] = self
        self.write_message(json.dumps({"session_id": "one"}))


class Request(RequestHandler):
    def post(self):
        key = self.request.headers.get("ndif-api-key")
        if key != KEY:
            self.set_status(401)
            self.write({"detail": f"Invalid API key: '{key}'"})
            return
        request = RequestModel.model_validate_json(self.get_body_argument("data"))
        name = json.loads(request.model_key.partition(":")[2])["repo_id"]
        assert request.env == {"attn_implementation": "eager"}
        if name not in MODELS and not name.endswith("wrong"):
            raise HTTPError(404)
        blob = self.request.files["blob"][0]["body"]
        asyncio.get_running_loop().call_later(0.05, self.answer, name, request, blob)
        self.write(ResponseModel(id="job", status=Status.RECEIVED).model_dump_json())

    def answer(self, name, request, blob):
        tell = SUBSCRIBED["one"].write_message
        tell(ResponseModel(id="job", status=Status.RUNNING).model_dump_json())
        try:
            result = packed({"chosen": Path("a path")}) if name.endswith("wrong") else run(MODELS[name], blob, True)
        except Exception as error:
            said = f"Traceback\n  somewhere\n{type(error).__name__}: {error}"
            tell(ResponseModel(id="job", status=Status.ERROR, description=said).model_dump_json())
            return
        tell(ResponseModel(id="job", status=Status.COMPLETED, data=result, meta={"seconds": 0.1}).pickle(), binary=True)


async def main():
    hold(Path(sys.argv[1]), sys.argv[2])
    server = tornado.httpserver.HTTPServer(Application([("/subscribe", Subscribe), ("/request", Request)]))
    server.listen(0, "127.0.0.1")
    [socket] = server._sockets.values()
    sys.stdout.write(f"{socket.getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
