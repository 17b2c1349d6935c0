// Early exit in JavaScript: runs what `eenet export CKPT --out model` wrote, stage by stage.
import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

ort.env.wasm.wasmPaths = new URL("./node_modules/onnxruntime-web/dist/", import.meta.url).href;
ort.env.wasm.numThreads = 1;

export class EarlyExitNetwork {
  /** Load the manifest and every stage from a directory's address. */
  static async load(address) {
    const response = await fetch(`${address}/eenet.json`);
    if (!response.ok) throw new Error(`no exported network in ${address}: eenet.json can't be read`);
    const network = new EarlyExitNetwork();
    network.manifest = await response.json();
    if (network.manifest.format !== "onnx") throw new Error("this page runs --format onnx");
    network.thresholds = network.manifest.stages.slice(0, -1).map((stage) => stage.threshold);
    network.sessions = [];
    for (const stage of network.manifest.stages)
      network.sessions.push(await ort.InferenceSession.create(`${address}/${stage.file}`));
    return network;
  }

  /** Classify an image, canvas or bitmap: `label`, `probability`, `exit`, `relativeCost`, `scores`, `milliseconds`. */
  async classify(image) {
    const { input, stages, class_names: names } = this.manifest;
    let features = new ort.Tensor("uint8", pixels(image, input), [1, input.channels, input.height, input.width]);
    const scores = [];
    let joined = names.map(() => 0); // what the exits so far say together, as logits
    const start = performance.now();
    for (const [k, stage] of stages.entries()) {
      const found = await this.sessions[k].run({ [stage.inputs[0]]: features });
      const [own, before] = stage.weights ?? [1, 0];
      const probabilities = found[stage.outputs.probabilities].data;
      joined = joined.map((logit, n) => own * Math.log(Math.max(probabilities[n], 1e-12)) + before * logit);
      if (k < stages.length - 1) {
        scores.push(found[stage.outputs.score].data[0]);
        features = found[stage.outputs.features];
        if (!(scores[k] > this.thresholds[k])) continue; // not sure enough: on to the next stage
      }
      const best = joined.indexOf(Math.max(...joined));
      const probability = 1 / joined.reduce((sum, logit) => sum + Math.exp(logit - joined[best]), 0);
      const answer = { label: names[best], probability, scores };
      const milliseconds = performance.now() - start;
      return { ...answer, exit: stage.exit, stage: k, relativeCost: stage.relative_cost, milliseconds };
    }
  }
}

/** uint8 values in the order channel, row, column; the image covers the size, its centre is taken. */
function pixels(image, { channels, height, width }) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const scale = Math.max(width / image.width, height / image.height);
  const [w, h] = [image.width * scale, image.height * scale];
  context.fillStyle = "white"; // under transparent images
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(image, (width - w) / 2, (height - h) / 2, w, h);
  const { data } = context.getImageData(0, 0, width, height);
  const values = new Uint8Array(channels * height * width);
  for (let i = 0; i < height * width; i++) {
    const [red, green, blue] = data.subarray(4 * i, 4 * i + 3);
    if (channels === 1) values[i] = Math.round(0.2989 * red + 0.587 * green + 0.114 * blue);
    else [red, green, blue].forEach((value, c) => (values[c * height * width + i] = value));
  }
  return values;
}
