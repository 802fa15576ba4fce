/**
 * A fake Firecracker's reaction to each request: the states, the order and the refusals of the real
 * one, over real files, a real TAP device and a simulated guest.
 *
 * Source: src/vmm/src/{rpc_interface,persist}.rs and src/firecracker/src/api_server of Firecracker
 * 1.16.1; the refusals before a start have been compared with the answers of 1.17.0-dev. `state` in
 * its files is text; the real one's is binary, and nothing else reads it either.
 */
import {
  closeSync,
  existsSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  readFileSync,
  writeFileSync,
} from "node:fs";
import { openTap } from "@torpor/native";
import { faultIn, findOperation } from "./contract.ts";
import { FakeGuest } from "./guest.ts";
import { FileMemory, PagedMemory } from "./guest-memory.ts";

const stateFormat = "10.0.0";
/** LIMIT: larger memory is not checked, because its checksums take long. */
const checkedBytesMax = 256 << 20;

type Body = Readonly<Record<string, unknown>>;

/** The answer to a request. */
export interface Answer {
  readonly status: number;
  readonly body?: object;
  /** The process ends after this answer. */
  readonly isFatal?: boolean;
}

interface SavedState {
  readonly format: string;
  readonly memoryBytes: number;
  readonly drivePath: string;
  readonly interfaceId: string;
  readonly tapName: string;
  /** Base64, of all pages. */
  readonly checksums?: string;
}

/** Parameters of a fake Firecracker. */
export interface VmmOptions {
  readonly id: string;
  readonly release: string;
  /** Translates a path of a request to the path on the machine. */
  readonly inJail: (path: string) => string;
}

const preBoot = fault("The requested operation is not supported before starting the microVM.");
const tooManyVcpus = fault(
  "Machine config error: The number of vCPUs must be greater than 0, less than 32 and must be 1 or an even number if SMT is enabled.",
);
const noSuchFile = "No such file or directory (os error 2)";
const postBoot = fault("The requested operation is not supported after starting the microVM.");

/** The states of one fake Firecracker process. */
export class FakeVmm {
  readonly #options: VmmOptions;
  readonly #config = new Map<string, Body>();
  #guest: FakeGuest | undefined;
  #tracksDirty = false;
  #shape: SavedState | undefined;

  constructor(options: VmmOptions) {
    this.#options = options;
  }

  get guest(): FakeGuest | undefined {
    return this.#guest;
  }

  serve(method: string, path: string, text: string): Answer {
    const operation = findOperation(method, path);
    if (operation === undefined) {
      const [first = ""] = path.replace(/^\/+/, "").split("/");
      return fault(`Invalid request method and/or path: ${method} ${first}.`);
    }
    if (method === "GET" && text !== "") return fault("GET request cannot have a body.");
    if (method !== "GET" && text === "") return fault(`Empty ${method} request.`);
    const body = method === "GET" ? {} : parse(text);
    if (body === undefined) return jsonFault("expected value at line 1 column 1");
    if (operation.body !== undefined) {
      const wrong = faultIn(operation.body, body, this.#options.release);
      if (wrong !== undefined && isVcpuCount(body["vcpu_count"])) return tooManyVcpus;
      if (wrong !== undefined) return jsonFault(`${wrong} at line 1 column ${text.length}`);
    }
    const [, resource = "", id = ""] = path.split("/");
    const named = body[resource === "drives" ? "drive_id" : "iface_id"];
    if (/^(drives|network-interfaces)$/.test(resource) && named !== id) {
      return fault("The id from the path does not match the id from the body!");
    }
    const isStarted = this.#guest !== undefined;
    if (operation.when === "notStarted" && isStarted) return postBoot;
    if ((operation.when === "started" || operation.when === "paused") && !isStarted) return preBoot;
    return this.#run(`${method} ${operation.path}`, path, body);
  }

  #run(name: string, path: string, body: Body): Answer {
    const { id, release } = this.#options;
    switch (name) {
      case "GET /":
        return ok({ app_name: "Firecracker", id, state: this.#state(), vmm_version: release });
      case "GET /version":
        return ok({ firecracker_version: release });
      case "GET /vm/config":
        return ok(Object.fromEntries(this.#config));
      case "PUT /actions":
        return body["action_type"] === "InstanceStart" ? this.#boot() : preBoot;
      case "PATCH /vm":
        if (body["state"] === "Paused") this.#guest?.pause();
        else this.#guest?.resume();
        return done;
      case "PUT /snapshot/create":
        return this.#save(body);
      case "PUT /snapshot/load":
        return this.#load(body);
      case "PATCH /drives/{drive_id}":
        return body["drive_id"] === "disk" ? done : fault("Device not found");
      case "PATCH /network-interfaces/{iface_id}":
        return body["iface_id"] === this.#shape?.interfaceId ? done : fault("Device not found");
      default:
        return this.#configure(path, body);
    }
  }

  /** Files are opened when a request names them, and not when the VM is started. */
  #configure(path: string, body: Body): Answer {
    const isThere = (file: unknown): boolean =>
      file === undefined || existsSync(this.#inJail(file));
    if (path.startsWith("/drives/") && !isThere(body["path_on_host"])) {
      return fault(
        `Drive config error: Unable to create the virtio block device: Virtio backend error: Error manipulating the backing file: ${noSuchFile} ${String(body["path_on_host"])}`,
      );
    }
    if (!isThere(body["kernel_image_path"])) {
      return fault(`Boot source error: The kernel file cannot be opened: ${noSuchFile}`);
    }
    if (!isThere(body["initrd_path"])) {
      return fault(
        `Boot source error: The initrd file cannot be opened due to invalid path or invalid permissions. ${noSuchFile}`,
      );
    }
    this.#config.set(path, body);
    return done;
  }

  #state(): string {
    if (this.#guest === undefined) return "Not started";
    return this.#guest.isRunning ? "Running" : "Paused";
  }

  #boot(): Answer {
    const machine = this.#config.get("/machine-config");
    const source = this.#config.get("/boot-source");
    const drive = this.#config.get("/drives/disk");
    const card = [...this.#config].find(([path]) => path.startsWith("/network-interfaces/"))?.[1];
    if (source === undefined) {
      return fault("Start microvm error: Cannot start microvm without kernel configuration.");
    }
    const kernel = readFileSync(this.#inJail(source["kernel_image_path"]));
    if (kernel.toString("latin1", 0, 4) !== "\x7fELF") {
      return fault(
        "Start microvm error: Cannot load kernel due to invalid memory configuration or invalid kernel image: Kernel Loader: failed to load ELF kernel image",
      );
    }
    readFileSync(this.#inJail(source["initrd_path"]));
    this.#tracksDirty = machine?.["track_dirty_pages"] === true;
    this.#shape = {
      format: stateFormat,
      memoryBytes: Number(machine?.["mem_size_mib"] ?? 128) * 2 ** 20,
      drivePath: String(drive?.["path_on_host"]),
      interfaceId: String(card?.["iface_id"]),
      tapName: String(card?.["host_dev_name"]),
    };
    openTap(this.#shape.tapName);
    const memory = new FileMemory(this.#shape.memoryBytes);
    this.#guest = new FakeGuest(memory, this.#inJail(this.#shape.drivePath));
    this.#guest.boot();
    return done;
  }

  #save(body: Body): Answer {
    const guest = this.#guest;
    if (guest === undefined || this.#shape === undefined) return preBoot;
    if (guest.isRunning) {
      return fault(
        "Create snapshot error: Cannot save the microVM state: Operation not allowed: save/restore unavailable while running",
      );
    }
    const isDiff = body["snapshot_type"] === "Diff";
    try {
      // No page that the guest has not written may have changed since the load.
      assertFamiliar(guest, this.#shape);
      const isSmall = guest.sizeBytes <= checkedBytesMax;
      const saved = isSmall ? { checksums: guest.checksums().toString("base64") } : {};
      const text = JSON.stringify({ ...this.#shape, ...saved } satisfies SavedState);
      writeFileSync(this.#inJail(body["snapshot_path"]), text);
      const path = this.#inJail(body["mem_file_path"]);
      const fd = openSync(path, existsSync(path) ? "r+" : "wx+", 0o600);
      try {
        // A file of another length cannot come from an earlier save.
        if (fstatSync(fd).size !== guest.sizeBytes) ftruncateSync(fd, 0);
        ftruncateSync(fd, guest.sizeBytes);
        guest.save(fd, isDiff && this.#tracksDirty);
        fsyncSync(fd);
      } finally {
        closeSync(fd);
      }
      return done;
    } catch (cause) {
      return fault(
        `Create snapshot error: Cannot perform open on the memory backing file: ${systemText(cause)}`,
      );
    }
  }

  #load(body: Body): Answer {
    if ((body["mem_backend"] === undefined) === (body["mem_file_path"] === undefined)) {
      return jsonFault("missing field: either `mem_backend` or `mem_file_path` is required");
    }
    if (this.#config.size > 0) {
      return fault(
        "Load snapshot error: Loading a microVM snapshot not allowed after configuring boot-specific resources.",
      );
    }
    try {
      this.#restore(body);
    } catch (cause) {
      const refused = fault(
        `Load snapshot error: Failed to restore from snapshot: ${systemText(cause)}`,
      );
      return { ...refused, isFatal: true };
    }
    if (body["resume_vm"] === true) this.#guest?.resume();
    return done;
  }

  #restore(body: Body): void {
    const state = parseState(readFileSync(this.#inJail(body["snapshot_path"]), "utf8"));
    const overrides = (body["network_overrides"] ?? []) as readonly Body[];
    let { tapName } = state;
    for (const override of overrides) {
      if (override["iface_id"] !== state.interfaceId) {
        throw new Error("Failed to get snapshot state from file: Unknown Network Device.");
      }
      tapName = String(override["host_dev_name"]);
    }
    const { backend_type: kind, backend_path: path } = body["mem_backend"] as Body;
    const Memory = kind === "Uffd" ? PagedMemory : FileMemory;
    const memory = new Memory(state.memoryBytes, this.#inJail(path));
    openTap(tapName);
    const guest = new FakeGuest(memory, this.#inJail(state.drivePath));
    // Pages that a pager brings are checked when they are saved, and not before the guest asks for
    // them.
    if (kind === "File") assertFamiliar(guest, state);
    guest.renewGeneration();
    this.#tracksDirty = body["track_dirty_pages"] === true;
    this.#shape = { ...state, tapName };
    this.#guest = guest;
  }

  #inJail(path: unknown): string {
    return this.#options.inJail(String(path));
  }
}

/**
 * Fails on damaged memory, which the real Firecracker would not notice; its guest would go wrong
 * later.
 */
function assertFamiliar(guest: FakeGuest, { checksums }: SavedState): void {
  const strange =
    checksums === undefined ? [] : guest.findStrange(Buffer.from(checksums, "base64"));
  if (strange.length === 0) return;
  throw new Error(
    `FAKE: the memory is not the one that was saved with this state: page ${strange.join()}`.slice(
      0,
      200,
    ),
  );
}

/** Whether a count is allowed; the parser only checks that it fits into its field. */
function isVcpuCount(value: unknown): boolean {
  return Number.isInteger(value) && (value === 0 || (Number(value) > 32 && Number(value) < 256));
}

function parseState(text: string): SavedState {
  const state = parse(text) as unknown as SavedState | undefined;
  if (state?.format === undefined) {
    throw new Error(
      "Failed to get snapshot state from file: Failed to load snapshot state from file: Magic value does not match arch: 0",
    );
  }
  if (state.format.split(".")[0] === stateFormat.split(".")[0]) return state;
  throw new Error(
    "Failed to get snapshot state from file: Failed to load snapshot state from file: Snapshot version mismatch",
  );
}

function parse(text: string): Body | undefined {
  try {
    return JSON.parse(text) as Body;
  } catch {
    return undefined;
  }
}

const done: Answer = { status: 204 };

function ok(body: object): Answer {
  return { status: 200, body };
}

function fault(message: string): Answer {
  return { status: 400, body: { fault_message: message } };
}

function jsonFault(message: string): Answer {
  return fault(`An error occurred when deserializing the json body of a request: ${message}.`);
}

function systemText(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
