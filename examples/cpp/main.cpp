// Early exit in C++: runs what `eenet export CKPT --format openvino --out DIR` wrote, stage by stage.
//     eenet_loop DIR IMAGE.ppm...      prints a line of JSON for each image
// Images are binary PPM (colour) or PGM (grey) files of the network's own size.
#include <algorithm>
#include <cmath>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <openvino/openvino.hpp>
#include <stdexcept>
#include <vector>

using nlohmann::json;

// Pixels in the order channel, row, column.
static ov::Tensor read_image(const std::string& path, const json& input) {
    const size_t channels = input["channels"], height = input["height"], width = input["width"];
    std::ifstream file(path, std::ios::binary);
    std::string magic;
    size_t columns = 0, rows = 0, largest = 0;
    file >> magic >> columns >> rows >> largest;
    file.get();
    if (!file || magic != (channels == 3 ? "P6" : "P5") || columns != width || rows != height || largest != 255)
        throw std::runtime_error(path + ": not a binary PPM or PGM image of the network's size");
    std::vector<uint8_t> interleaved(channels * height * width);
    file.read(reinterpret_cast<char*>(interleaved.data()), interleaved.size());
    if (!file) throw std::runtime_error(path + ": the file ends too early");
    ov::Tensor pixels(ov::element::u8, {1, channels, height, width});
    for (size_t i = 0; i < height * width; i++)
        for (size_t c = 0; c < channels; c++)
            pixels.data<uint8_t>()[c * height * width + i] = interleaved[i * channels + c];
    return pixels;
}

int main(int count, char** words) try {
    if (count < 3) throw std::runtime_error("usage: eenet_loop DIR IMAGE.ppm...");
    const std::string directory = words[1];
    std::ifstream manifest_file(directory + "/eenet.json");
    if (!manifest_file) throw std::runtime_error("no eenet.json in " + directory);
    const json manifest = json::parse(manifest_file);
    const json& stages = manifest["stages"];

    ov::Core core;
    std::vector<ov::InferRequest> requests;
    for (const json& stage : stages) {
        auto model = core.read_model(directory + "/" + stage.at("file").get<std::string>());
        auto compiled = core.compile_model(model, "CPU", ov::hint::inference_precision(ov::element::f32));
        requests.push_back(compiled.create_infer_request());
    }
    for (int i = 2; i < count; i++) {
        ov::Tensor features = read_image(words[i], manifest["input"]);
        std::vector<double> joined(manifest["class_names"].size());  // the exits' common answer, as logits
        for (size_t k = 0; k < stages.size(); k++) {
            const json& outputs = stages[k]["outputs"];
            requests[k].set_input_tensor(features);
            requests[k].infer();
            const float* own = requests[k].get_tensor(outputs["probabilities"]).data<float>();
            const auto weights = stages[k].value("weights", std::vector<double>{1, 0});
            for (size_t n = 0; n < joined.size(); n++)
                joined[n] = weights[0] * std::log(std::max(own[n], 1e-12f)) + weights[1] * joined[n];
            if (k + 1 < stages.size()) {
                features = requests[k].get_tensor(outputs["features"]);
                const double score = *requests[k].get_tensor(outputs["score"]).data<float>();
                if (!(score > stages[k]["threshold"].get<double>())) continue;  // on to the next stage
            }
            const size_t best = std::max_element(joined.begin(), joined.end()) - joined.begin();
            double sum = 0;
            for (double logit : joined) sum += std::exp(logit - joined[best]);
            const json label = manifest["class_names"][best], cost = stages[k]["relative_cost"];
            std::cout << json{{"file", words[i]}, {"label", label}, {"probability", 1 / sum},
                              {"exit", stages[k]["exit"]}, {"relative_cost", cost}} << "\n";
            break;
        }
    }
} catch (const std::exception& error) {
    std::cerr << "eenet_loop: " << error.what() << "\n";
    return 1;
}
