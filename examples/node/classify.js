// Early exit in Node.js: runs what `eenet export CKPT --out DIR` wrote, stage by stage.
//     node classify.js DIR IMAGE.ppm...      prints a line of JSON for each image
// Images are binary PPM (colour) or PGM (grey) files of the network's own size.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as ort from "onnxruntime-node";

/** uint8 pixels in the order channel, row, column. */
function readImage(path, { channels, height, width }) {
  const file = readFileSync(path);
  const [header, ...words] = file.toString("latin1", 0, 64).match(/^(P[56])\s+(\d+)\s+(\d+)\s+(\d+)\s/) ?? [];
  if (!header || words.join(" ") !== `${channels === 3 ? "P6" : "P5"} ${width} ${height} 255`)
    throw new Error(`${path}: not a binary PPM or PGM image of the network's size`);
  const interleaved = file.subarray(header.length);
  if (interleaved.length < channels * height * width) throw new Error(`${path}: the file ends too early`);
  const pixels = new Uint8Array(channels * height * width);
  for (let i = 0; i < height * width; i++)
    for (let c = 0; c < channels; c++) pixels[c * height * width + i] = interleaved[i * channels + c];
  return new ort.Tensor("uint8", pixels, [1, channels, height, width]);
}

async function load(directory) {
  const manifest = JSON.parse(readFileSync(join(directory, "eenet.json"), "utf8"));
  if (manifest.format !== "onnx") throw new Error(`${directory}: this program runs --format onnx`);
  const sessions = [];
  for (const stage of manifest.stages) sessions.push(await ort.InferenceSession.create(join(directory, stage.file)));
  return { manifest, sessions };
}

/** Stage by stage, until the score behind one is above its threshold. */
async function classify({ manifest, sessions }, features) {
  const names = manifest.class_names;
  let joined = names.map(() => 0); // what the exits so far say together, as logits
  for (const [k, stage] of manifest.stages.entries()) {
    const found = await sessions[k].run({ [stage.inputs[0]]: features });
    const [own, before] = stage.weights ?? [1, 0];
    const said = found[stage.outputs.probabilities].data;
    joined = joined.map((logit, n) => own * Math.log(Math.max(said[n], 1e-12)) + before * logit);
    const last = k === manifest.stages.length - 1;
    if (!last && !(found[stage.outputs.score].data[0] > stage.threshold)) {
      features = found[stage.outputs.features];
      continue;
    }
    const best = joined.indexOf(Math.max(...joined));
    const probability = 1 / joined.reduce((sum, logit) => sum + Math.exp(logit - joined[best]), 0);
    return { label: names[best], probability, exit: stage.exit, relative_cost: stage.relative_cost };
  }
}

try {
  const [directory, ...files] = process.argv.slice(2);
  if (!files.length) throw new Error("usage: node classify.js DIR IMAGE.ppm...");
  const network = await load(directory);
  for (const file of files) {
    const pixels = readImage(file, network.manifest.input);
    console.log(JSON.stringify({ file, ...(await classify(network, pixels)) }));
  }
} catch (error) {
  console.error(`error: ${error.message}`);
  process.exitCode = 1;
}
