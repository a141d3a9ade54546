// The service of the example: it keeps its orders in PostgreSQL, and knows nothing of keys.
import express from "express";
import pg from "pg";

const database = new pg.Pool({ connectionString: process.env.DATABASE_URL });
await database.query("CREATE TABLE IF NOT EXISTS orders (number bigserial PRIMARY KEY, sku text NOT NULL)");

const app = express();
app.use(express.json());
app.post("/orders", async (request, response) => {
  const { rows } = await database.query("INSERT INTO orders (sku) VALUES ($1) RETURNING number", [request.body.sku]);
  response.status(201).json({ order: Number(rows[0].number), sku: request.body.sku });
});
app.get("/healthz", (_request, response) => response.send("ok"));

const server = app.listen(9000, process.env.HOST ?? "0.0.0.0", () => console.log("listening"));
// The sidecar lets go of an idle connection after a second; the app must not be the first.
server.keepAliveTimeout = 5_000;
process.on("SIGTERM", () => server.close(() => process.exit(0)));
