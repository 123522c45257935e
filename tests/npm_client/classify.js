// node classify.js URL IMAGE LABEL...: prints the answer, or the error, as JSON.
import { readFile } from "node:fs/promises";
import { InferenceClient } from "@huggingface/inference";

const [url, path, ...labels] = process.argv.slice(2);
const image = new Blob([await readFile(path)]);
try {
  const client = new InferenceClient().endpoint(url);
  const answer = await client.zeroShotImageClassification({
    inputs: { image },
    parameters: { candidate_labels: labels },
  });
  console.log(JSON.stringify({ answer }));
} catch (error) {
  console.log(JSON.stringify({ message: error.message, response: error.httpResponse }));
}
