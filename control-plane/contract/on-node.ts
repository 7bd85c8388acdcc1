import { inject } from "vitest";
import { apiContract } from "./api.contract.ts";

/** On Node: the control plane in a process of its own, on a libSQL file. */
const url = inject("url");
apiContract({ admin: inject("admin"), fetch: (path, init) => fetch(url + path, init) });
