"""What a FastAPI route costs that does nothing: uvicorn empty:app"""

from fastapi import FastAPI, Request

app = FastAPI()


@app.get("/empty")
async def empty() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/body")
async def body(request: Request) -> dict[str, int]:
    """Takes the body of a request in, and does not look at it."""
    return {"bytes": len(await request.body())}
